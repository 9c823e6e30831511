"""Pipelines to and from `diffusers`: a network and its schedule as a folder. Chapters 5, 13 and 16.

Only pipelines need the package `diffusers` itself (the extra `interop`).
"""

from pathlib import Path

import torch

from diffusion_book._files import expanded
from diffusion_book.interop.diffusers.folder import read_json, read_network
from diffusion_book.interop.diffusers.package import diffusers
from diffusion_book.interop.diffusers.schedulers import schedule_from_diffusers, schedule_to_diffusers
from diffusion_book.interop.diffusers.text_unet import text_unet_from_diffusers
from diffusion_book.interop.diffusers.unet import unet_from_diffusers, unet_to_diffusers
from diffusion_book.nn import UNet
from diffusion_book.nn.build import uncompiled
from diffusion_book.predictions import Prediction
from diffusion_book.schedules import EDM, Discrete, Schedule


def save_pipeline(
    folder: Path | str, unet: UNet, schedule: Schedule, prediction: Prediction, image_size: int | tuple[int, int]
) -> None:
    """Write a folder that `DiffusionPipeline.from_pretrained(folder)` loads, weights in float32 as safetensors.

    | schedule | prediction | scheduler there | pipeline there |
    |---|---|---|---|
    | with steps | "eps", "v", "x0" | DDPMScheduler | DDPMPipeline |
    | `Flow` | "u" | FlowMatchEulerDiscreteScheduler | DDPMPipeline |
    | `EDM` | "F" | EDMEulerScheduler | ConsistencyModelPipeline |

    The last has the loop that EDM needs: noise of σ_max to start from, the input scaled by c_in, labels as well. That
    of DDPMPipeline leaves out all three, and that of ConsistencyModelPipeline draws squares only.

    A network with `patch` = p > 1 draws unshuffled images there, [B, C p², H/p, W/p], from any of these schedulers as
    well as here. Ask for tensors and put them together:

        images = torch.nn.functional.pixel_shuffle(pipeline(output_type="pt").images, p)

    Args:
        folder: is made, and may exist.
        unet: the network. `DDPMPipeline` gives it no labels, so one with classes is for your own loop.
        schedule: the schedule it was trained on; any with steps, whose β go along, `Flow` or `EDM`.
        prediction: what it was trained to output.
        image_size: side, or (height, width), of the images that it was trained on.

    Raises:
        ValueError: something has no counterpart there; nothing is written.
        ImportError: `diffusers` is not installed.

    Source: of the schedules, Ho et al. 2020; Liu et al. 2023; Karras et al. 2022, table 1.
    """
    network = uncompiled(unet)
    if not isinstance(network, UNet):
        raise ValueError(f"a pipeline of diffusers is made of a UNet, got {type(unet).__name__}")
    scheduler, options = schedule_to_diffusers(schedule, prediction, network.config.learned_variance)
    config, state = unet_to_diffusers(network, image_size, _time_origin(schedule))
    theirs = diffusers()
    model = theirs.UNet2DModel(**config)
    model.load_state_dict(state)
    pipeline = theirs.ConsistencyModelPipeline if isinstance(schedule, EDM) else theirs.DDPMPipeline
    pipeline(model, getattr(theirs, scheduler)(**options)).save_pretrained(expanded(folder), safe_serialization=True)


def load_pipeline(
    folder: Path | str, last_is_no_label: bool = False, patch: int = 1
) -> tuple[UNet, Schedule, Prediction]:
    """The network, schedule and prediction of a pipeline's folder, as `diffusers` or `save_pipeline` wrote it.

    How its scheduler steps is left behind: the spacing of its times, σ_min and ρ of EDM, the shift of a flow, which
    there moves the times and nothing else. Choose a grid of ours; a shift k takes t to k t/(1 + (k − 1) t). An
    autoencoder and an encoder of texts that lie beside the network are left behind, too; `models.load` takes them all.

    Args:
        folder: has unet/config.json, of a UNet2DModel or a UNet2DConditionModel, and beside it
            diffusion_pytorch_model.safetensors; and scheduler/scheduler_config.json.
        last_is_no_label, patch: see `unet_from_diffusers`; nothing in the folder says either.

    Returns:
        The network, ready to evaluate; its schedule, with DDPM's steps, `Flow` or `EDM`; its prediction. Where EDM's
        scheduler says "v_prediction", which is −F, the network's last layer comes with the other sign.

    Raises:
        ValueError: a file is not there, or something in one does not fit; the message names it.
        ImportError: the schedule is one that only `diffusers` can compute, and it is not installed.
    """
    folder = expanded(folder)
    options = read_json(folder / "scheduler" / "scheduler_config.json")
    schedule, prediction, sign = schedule_from_diffusers(options)
    config, tensors = read_network(folder / "unet")
    reads = config.get("_class_name") == "UNet2DConditionModel"
    read = text_unet_from_diffusers if reads else unet_from_diffusers
    unet = read(config, tensors, last_is_no_label, _time_origin(schedule), patch)
    if unet.config.learned_variance:
        _check_variance(schedule, config["out_channels"], options.get("variance_type"))
    with torch.no_grad():
        for parameter in unet.head.parameters():
            parameter.mul_(sign)
    return unet, schedule, prediction


def _time_origin(schedule: Schedule) -> int:
    return 1 if isinstance(schedule, Discrete) else 0


def _check_variance(schedule: Schedule, out_channels: int, variance_type: object) -> None:
    if not isinstance(schedule, Discrete):
        raise ValueError(f"out_channels = {out_channels} does not fit: {schedule!r} has no variance to learn")
    if variance_type == "learned":
        raise ValueError(
            "variance_type = 'learned' does not fit: our UNet needs learned_range, between the bounds of the variance"
        )
