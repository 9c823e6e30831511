"""U-Nets and pipelines to and from `diffusers`: its UNet2DModel is our UNet under other names. Chapters 5 and 16.

Differences are of meaning. Where a schedule has steps, `diffusers` counts the noisy times from 0, this book from 1, so
its timestep k is our t = k + 1. A network read from there has `time_origin` = 1; in one written there the step of time
goes into the first layer behind the sinusoids. Flows and EDM tell a network the same numbers there as here, the
schedule's `clock`: 1000 t and ¼ ln σ. Only pipelines need the package `diffusers` itself (the extra `interop`).

Theirs has no patches. But a network with `patch` = p is, inside, one of unshuffled images, C p² channels of H/p × W/p,
and as such it is written. They are the same pixels in another order, in which independent noise stays independent, so
every scheduler there walks them as it would walk the images; in the end `pixel_shuffle` puts them together.
"""

import importlib.util
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from diffusion_book._checks import at_least
from diffusion_book.nn import UNet, UNetConfig, timestep_embedding
from diffusion_book.predictions import Prediction
from diffusion_book.schedules import EDM, Discrete, Flow, Schedule

# What UNet2DModel takes for an option that a configuration leaves out.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}

# Options of which our U-Net has only these values.
_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0, 1),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(of, value))


_COUNT = (_is_count, "a positive integer")
_COUNT_OR_NONE = (lambda value: value is None or _is_count(value), "None or a positive integer")
_FLAG = (lambda value: isinstance(value, bool), "True or False")
_NAMES = (lambda value: _is_list(value, lambda name: isinstance(name, str)), "a list of names")

# What each of the others must be, before it is compared with its neighbours.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "in_channels": _COUNT,
    "flip_sin_to_cos": _FLAG,
    "block_out_channels": (lambda value: _is_list(value, _is_count), "a list of positive integers"),
    "down_block_types": _NAMES,
    "up_block_types": _NAMES,
    "layers_per_block": _COUNT,
    "dropout": (lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)"),
    "attention_head_dim": _COUNT_OR_NONE,
    "norm_num_groups": _COUNT,
    "norm_eps": (lambda value: _is_number(value) and value > 0, "a positive number"),
    "add_attention": _FLAG,
    "num_class_embeds": _COUNT_OR_NONE,
}

_PREDICTION_TYPES: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}

# What EDM's schedulers call a prediction is F or −F: the sign with which it enters their x̂0.
_SIGNS_OF_F = {"epsilon": 1, "v_prediction": -1}
_ON_EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
_ON_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")

# Schedulers that walk on DDPM's betas, unless they are told to walk on a flow.
_ON_BETAS = (
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


def unet_from_diffusers(
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    last_is_no_label: bool = False,
    time_origin: int = 1,
    patch: int = 1,
) -> UNet:
    """The U-Net of a `UNet2DModel`, with its weights in float32, ready to evaluate: ours at t is theirs at t − 1.

    Args:
        config: the options of `UNet2DModel`, as in its config.json; those left out have its defaults.
        state_dict: its weights, in any precision; the old names of its attention layers are understood.
        last_is_no_label: whether the last of its `num_class_embeds` classes means "no label". `diffusers` does not
            say; otherwise the network wants a label in every call.
        time_origin: the time of ours that they call 0: 1 where they count steps, 0 for flows and EDM.
        patch: p of the network that `unet_to_diffusers` wrote, for one of images [B, C, H, W] again; 1 leaves one of
            their unshuffled form [B, C p², H/p, W/p].

    Raises:
        ValueError: an option or a weight does not fit a `UNet`; the message names the first.
    """
    ours = _in_patches(_config_from_diffusers(config, last_is_no_label, time_origin), patch)
    with torch.device("meta"):  # names and shapes only: no memory, and no random numbers
        unet = UNet(ours)
    left = {_new_name(key): value for key, value in state_dict.items()}
    expected = unet.state_dict()
    if patch > 1:
        expected["stem.weight"] = _widen(expected["stem.weight"])
    state = {}
    for key, parameter in expected.items():
        names = _names(key)
        parts = []
        for name in names:
            # Their attention's layers are matrices, ours are 1×1 convolutions, with q, k and v in one.
            matrix = ".attentions." in name and ".group_norm." not in name
            shape = parameter.shape[: 2 if matrix else None]
            shape = torch.Size((shape[0] // len(names), *shape[1:]))
            if name not in left:
                raise ValueError(f"the weights lack {name}, of shape {tuple(shape)}")
            value = left.pop(name)
            if value.shape != shape:
                raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(value.shape)}")
            parts.append(value.detach().to(torch.float32))
        state[key] = torch.cat(parts).reshape(parameter.shape)
    if left:
        raise ValueError(f"{next(iter(left))} has no place in this U-Net; the options do not speak of it")
    if patch > 1:
        state["stem.weight"] = _narrow(state["stem.weight"], patch)
    unet.load_state_dict(state, assign=True)
    return unet.eval()


def unet_to_diffusers(
    unet: UNet, image_size: int | tuple[int, int] | None = None, time_origin: int = 1
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options and weights with which a `UNet2DModel` at timestep t − 1 is our U-Net at t.

    Weights read by `unet_from_diffusers` go back bit for bit. Those of a network with another `time_origin` than is
    asked for have the step of time in `time_embedding.linear_1`; the outputs then differ by the rounding of an angle.

    With `patch` = p > 1 theirs takes `pixel_unshuffle(x, p)` [B, C p², H/p, W/p] and its output is that of ours in the
    same form: `pixel_shuffle(…, p)` makes it [B, C, H, W]. Both functions are in `torch.nn.functional`.

    Args:
        unet: what to write. Label `classes` still means "no label", but nothing in the options says so.
        image_size: side, or (height, width), of the images; `diffusers` wants to know before it samples. The options
            have it in patches.
        time_origin: the time of ours that they are to call 0: 1 where they count steps, 0 for flows and EDM.

    Raises:
        ValueError: an option of the U-Net is not one of `UNet2DModel`'s; the message names the first. Or image_size is
            no multiple of `patch`.
    """
    patch = unet.config.patch
    inside = replace(unet.config, image_channels=unet.config.image_channels * patch**2, patch=1)
    config = _config_to_diffusers(inside, _side_in_patches(image_size, patch))
    state = {}
    for key, value in unet.state_dict().items():
        value = value.detach()
        if key == "embed_time.layers.0.weight" and unet.config.time_origin != time_origin:
            value = _turn(value, time_origin - unet.config.time_origin, unet.config)
        if key == "stem.weight" and patch > 1:
            value = _widen(value)
        names = _names(key)
        for name, part in zip(names, value.chunk(len(names))):
            matrix = ".attentions." in name and part.ndim == 4
            state[name] = (part[:, :, 0, 0] if matrix else part).clone()
    return config, state


def save_pipeline(
    folder: Path | str, unet: UNet, schedule: Schedule, prediction: Prediction, image_size: int | tuple[int, int]
) -> None:
    """Write a folder that `DiffusionPipeline.from_pretrained(folder)` loads, weights as safetensors.

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
    if not isinstance(unet, UNet):
        raise ValueError(f"a pipeline of diffusers is made of a UNet, got {type(unet).__name__}")
    scheduler, options = _scheduler_to_diffusers(schedule, prediction, unet.config.learned_variance)
    config, state = unet_to_diffusers(unet, image_size, _time_origin(schedule))
    diffusers = _diffusers()
    model = diffusers.UNet2DModel(**config)
    model.load_state_dict(state)
    pipeline = diffusers.ConsistencyModelPipeline if isinstance(schedule, EDM) else diffusers.DDPMPipeline
    pipeline(model, getattr(diffusers, scheduler)(**options)).save_pretrained(folder, safe_serialization=True)


def load_pipeline(
    folder: Path | str, last_is_no_label: bool = False, patch: int = 1
) -> tuple[UNet, Schedule, Prediction]:
    """The network, schedule and prediction of a pipeline's folder, as `diffusers` or `save_pipeline` wrote it.

    How its scheduler steps is left behind: the spacing of its times, σ_min and ρ of EDM, the shift of a flow, which
    there moves the times and nothing else. Choose a grid of ours; a shift k takes t to k t/(1 + (k − 1) t).

    Args:
        folder: has unet/config.json, unet/diffusion_pytorch_model.safetensors and scheduler/scheduler_config.json.
        last_is_no_label, patch: see `unet_from_diffusers`; nothing in the folder says either.

    Returns:
        The network, ready to evaluate; its schedule, with DDPM's steps, `Flow` or `EDM`; its prediction. Where EDM's
        scheduler says "v_prediction", which is −F, the network's last layer comes with the other sign.

    Raises:
        ValueError: a file is not there, or something in one does not fit; the message names it.
        ImportError: the schedule is one that only `diffusers` can compute, and it is not installed.
    """
    options = _read_json(Path(folder) / "scheduler" / "scheduler_config.json")
    schedule, prediction, sign = _schedule_from_diffusers(options)
    config = _read_json(Path(folder) / "unet" / "config.json")
    weights = Path(folder) / "unet" / "diffusion_pytorch_model.safetensors"
    if not weights.is_file():
        raise ValueError(
            f"there is no {weights}; weights are read from safetensors only, because other files can run code: "
            "convert them with diffusers' save_pretrained(…, safe_serialization=True)"
        )
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged, or no safetensors file ({error}); fetch it again") from error
    unet = unet_from_diffusers(config, tensors, last_is_no_label, _time_origin(schedule), patch)
    if unet.config.learned_variance and not isinstance(schedule, Discrete):
        raise ValueError(f"out_channels = {config['out_channels']} does not fit: {schedule!r} has no variance to learn")
    with torch.no_grad():
        for parameter in unet.head.parameters():
            parameter.mul_(sign)
    return unet, schedule, prediction


def _time_origin(schedule: Schedule) -> int:
    return 1 if isinstance(schedule, Discrete) else 0


def _scheduler_to_diffusers(
    schedule: Schedule, prediction: Prediction, learned_variance: bool
) -> tuple[str, dict[str, Any]]:
    """The name of a scheduler of theirs, and its options."""
    known: dict[Prediction, str]
    if isinstance(schedule, Flow):
        name, known, options = "FlowMatchEulerDiscreteScheduler", {"u": ""}, {}
    elif isinstance(schedule, EDM):
        name, known = "EDMEulerScheduler", {"F": "epsilon"}
        options = {"sigma_max": schedule.T, "sigma_data": schedule.sigma_data, "prediction_type": "epsilon"}
    elif isinstance(schedule, Discrete):
        name, known = "DDPMScheduler", {ours: theirs for theirs, ours in _PREDICTION_TYPES.items()}
        options = {
            "num_train_timesteps": schedule.T,
            "trained_betas": schedule.beta[1:].tolist(),
            "prediction_type": known.get(prediction),
            "variance_type": "learned_range" if learned_variance else "fixed_small",
        }
    else:
        raise ValueError(
            "diffusers has schedules with steps, such as schedules.cosine(), schedules.Flow and schedules.EDM; "
            f"got {schedule!r}"
        )
    if prediction not in known:
        raise ValueError(f"diffusers' {name} knows no prediction {prediction!r}; train one of {', '.join(known)}")
    if learned_variance and not isinstance(schedule, Discrete):
        raise ValueError(f"diffusers' {name} knows no learned variance; train a network without one")
    return name, options


def _schedule_from_diffusers(options: Mapping[str, Any]) -> tuple[Schedule, Prediction, int]:
    """Schedule, prediction, and the sign with which the network's output is that prediction."""

    def check(option: str, value: Any, fits: bool, expected: str) -> None:
        if not fits:
            raise ValueError(f"{option} = {value!r} does not fit: {scheduler} needs {expected}")

    scheduler = options.get("_class_name", "DDPMScheduler")
    prediction = options.get("prediction_type", "epsilon")
    check("prediction_type", prediction, isinstance(prediction, str), "a name")
    if scheduler in _ON_EDM:
        check("prediction_type", prediction, prediction in _SIGNS_OF_F, " or ".join(_SIGNS_OF_F))
        sigmas = {"sigma_max": options.get("sigma_max", 80.0), "sigma_data": options.get("sigma_data", 0.5)}
        for option, value in sigmas.items():
            check(option, value, _is_number(value) and value > 0, "a positive number")
        return EDM(**sigmas), "F", _SIGNS_OF_F[prediction]
    if scheduler in _ON_FLOW or (scheduler in _ON_BETAS and options.get("use_flow_sigmas")):
        steps = options.get("num_train_timesteps", 1000)
        check("num_train_timesteps", steps, steps == 1000, "1000, since our Flow tells a network 1000 t")
        inverted = options.get("invert_sigmas", False)
        check("invert_sigmas", inverted, not inverted, "False, with the noise at 1")
        if scheduler in _ON_BETAS:
            check("prediction_type", prediction, prediction == "flow_prediction", "flow_prediction on a flow")
        return Flow(), "u", 1
    if scheduler not in _ON_BETAS:
        known = ", ".join(sorted([*_ON_BETAS, *_ON_EDM, *_ON_FLOW]))
        raise ValueError(f"_class_name = {scheduler!r}: only schedulers of known schedules are read, {known}")
    check("prediction_type", prediction, prediction in _PREDICTION_TYPES, f"one of {', '.join(_PREDICTION_TYPES)}")
    clock = options.get("timestep_type", "discrete")
    check("timestep_type", clock, clock == "discrete", "discrete, as DDPM counts its steps")
    try:
        return _discrete(options), _PREDICTION_TYPES[prediction], 1
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"scheduler_config.json: {scheduler} cannot be made of its options ({error})") from error


def _discrete(options: Mapping[str, Any]) -> Discrete:
    beta = options.get("trained_betas")
    if beta is None or options.get("rescale_betas_zero_snr"):
        scheduler = _diffusers().DDPMScheduler
        known = {key: value for key, value in options.items() if key in scheduler().config}
        beta = scheduler(**known).betas.tolist()
    return Discrete(torch.tensor(beta, dtype=torch.float64))


def _config_from_diffusers(config: Mapping[str, Any], last_is_no_label: bool, time_origin: int) -> UNetConfig:
    for option in config:
        if option not in _DEFAULTS and not option.startswith("_"):  # _class_name, _diffusers_version, _name_or_path
            raise ValueError(f"{option} = {config[option]!r}: this is no option of a UNet2DModel that is known here")
    theirs = _DEFAULTS | dict(config)

    def check(option: str, fits: bool, expected: str) -> None:
        if not fits:
            raise ValueError(f"{option} = {theirs[option]!r} does not fit: our UNet needs {expected}")

    for option, values in _FIXED.items():
        check(option, theirs[option] in values, " or ".join(map(repr, values)))
    for option, (fits, expected) in _KINDS.items():
        check(option, fits(theirs[option]), expected)
    widths, groups, head = theirs["block_out_channels"], theirs["norm_num_groups"], theirs["attention_head_dim"]
    C = theirs["in_channels"]
    check("out_channels", theirs["out_channels"] in (C, 2 * C), f"in_channels = {C} or twice as many")
    check("block_out_channels", widths[0] % 2 == 0, "an even first width")
    check("block_out_channels", widths[0] > 2 * theirs["freq_shift"], "a first width of 4 or more with freq_shift = 1")
    check("time_embedding_dim", theirs["time_embedding_dim"] in (None, 4 * widths[0]), f"None or {4 * widths[0]}")
    check("norm_num_groups", all(w % groups == 0 for w in widths), f"a divisor of each of {widths}")
    check("attn_norm_num_groups", theirs["attn_norm_num_groups"] in (None, groups), f"None or {groups}")
    levels, resample = _levels(theirs, check)
    attends = [widths[level] for level in levels] + [widths[-1]] * theirs["add_attention"]
    check("attention_head_dim", head is None or all(w % head == 0 for w in attends), f"a divisor of each of {attends}")
    classes = theirs["num_class_embeds"] or 0
    check("num_class_embeds", classes > 1 or not last_is_no_label, 'a class besides "no label"')

    add = theirs["resnet_time_scale_shift"] == "default"
    return UNetConfig(
        image_channels=C,
        channels=widths[0],
        channel_mults=tuple(w // widths[0] if w % widths[0] == 0 else w / widths[0] for w in widths),
        blocks=theirs["layers_per_block"],
        attention_levels=levels,
        middle_attention=None if theirs["add_attention"] == bool(levels) else theirs["add_attention"],
        head_channels=head,
        groups=groups,
        classes=classes - last_is_no_label,
        no_label=last_is_no_label or not classes,
        learned_variance=theirs["out_channels"] == 2 * C,
        dropout=theirs["dropout"],
        conditioning="add" if add else "scale_shift",
        resample=resample,
        pad_end=theirs["downsample_padding"] == 0,
        # Theirs leaves this norm out under scale_shift, unless it is given groups.
        middle_attention_norm=add or theirs["attn_norm_num_groups"] is not None or not theirs["add_attention"],
        norm_eps=theirs["norm_eps"],
        time_origin=time_origin,
        frequency_shift=theirs["freq_shift"],
        sines_first=not theirs["flip_sin_to_cos"],
    )


def _levels(
    theirs: Mapping[str, Any], check: Callable[[str, bool, str], None]
) -> tuple[tuple[int, ...], Literal["conv", "block"]]:
    """The levels with attention, and what stands between levels: in theirs a matter of each block's type."""
    down, up = theirs["down_block_types"], theirs["up_block_types"]
    depth = len(theirs["block_out_channels"])
    for option, types, way in (("down_block_types", down, "Down"), ("up_block_types", up, "Up")):
        known = (f"{way}Block2D", f"Attn{way}Block2D", f"Resnet{way}sampleBlock2D")
        check(option, len(types) == depth, f"a type for each of the {depth} levels")
        check(option, set(types) <= set(known), f"types among {', '.join(known)}")
    levels = tuple(i for i, kind in enumerate(down) if kind.startswith("Attn"))
    mirrored = tuple(i for i, kind in enumerate(reversed(up)) if kind.startswith("Attn"))
    check("up_block_types", mirrored == levels, "attention on the same levels as down_block_types")

    def between(types: Any, attention: str) -> set[bool]:
        """Which ways of resampling are used; the last block has none."""
        return {attention == "resnet" if kind.startswith("Attn") else kind.startswith("Resnet") for kind in types[:-1]}

    below, above = between(down, theirs["downsample_type"]), between(up, theirs["upsample_type"])
    check("down_block_types", len(below) < 2, "convolutions between all levels, or residual blocks between all")
    check("up_block_types", above == below, "the way up to resample like the way down")
    return levels, "block" if below == {True} else "conv"


def _config_to_diffusers(config: UNetConfig, image_size: int | tuple[int, int] | None) -> dict[str, Any]:
    def check(option: str, fits: bool, why: str) -> None:
        if not fits:
            raise ValueError(f"{option} = {getattr(config, option)!r} cannot be written as a UNet2DModel: {why}")

    attends, add = config.attends_in_the_middle, config.conditioning == "add"
    norm = config.middle_attention_norm
    check("context_dim", config.context_dim == 0, "it reads no text")
    check("middle_attention_norm", norm or not add or not attends, 'under conditioning = "add" it always has one')
    check("norm_eps", config.norm_eps > 0, "it must be positive")
    levels, block = range(len(config.widths)), config.resample == "block"

    def types(way: str) -> list[str]:
        plain = f"Resnet{way}sampleBlock2D" if block else f"{way}Block2D"
        return [f"Attn{way}Block2D" if level in config.attention_levels else plain for level in levels]

    return _DEFAULTS | {
        "sample_size": image_size,
        "in_channels": config.image_channels,
        "out_channels": config.out_channels,
        "freq_shift": config.frequency_shift,
        "flip_sin_to_cos": not config.sines_first,
        "down_block_types": types("Down"),
        "up_block_types": types("Up")[::-1],
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "downsample_padding": 0 if config.pad_end else 1,
        "downsample_type": "resnet" if block else "conv",
        "upsample_type": "resnet" if block else "conv",
        "dropout": config.dropout,
        "attention_head_dim": config.head_channels,
        "norm_num_groups": config.groups,
        "attn_norm_num_groups": config.groups if attends and norm and not add else None,
        "norm_eps": config.norm_eps,
        "resnet_time_scale_shift": "default" if add else "scale_shift",
        "add_attention": attends,
        "num_class_embeds": config.classes + config.no_label if config.classes else None,
    }


def _in_patches(config: UNetConfig, patch: int) -> UNetConfig:
    """Of a network of unshuffled images, the one of images that it is inside of."""
    at_least(1, patch=patch)
    channels, left = divmod(config.image_channels, patch**2)
    if left:
        raise ValueError(
            f"in_channels = {config.image_channels} does not fit: patch = {patch} needs a multiple of {patch**2}"
        )
    return replace(config, image_channels=channels, patch=patch)


def _side_in_patches(image_size: int | tuple[int, int] | None, patch: int) -> int | tuple[int, int] | None:
    if image_size is None or patch == 1:
        return image_size
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height % patch or width % patch:
        raise ValueError(f"image_size = {image_size!r} does not fit: patch = {patch} needs multiples of {patch}")
    return height // patch if height == width else (height // patch, width // patch)


def _widen(weight: Tensor) -> Tensor:
    """A stem's weight of patches [F, C, p, p] as one of unshuffled images [F, C p², 3, 3]: it looks at no neighbour."""
    return F.pad(weight.reshape(len(weight), -1, 1, 1), (1, 1, 1, 1))


def _narrow(weight: Tensor, patch: int) -> Tensor:
    """The way back."""
    centre = weight[:, :, 1:2, 1:2]
    if weight.count_nonzero() > centre.count_nonzero():
        raise ValueError(
            f"conv_in.weight looks beyond the patch of its position, which no stem with patch = {patch} does; "
            "read it with patch = 1, and unshuffle the images"
        )
    return centre.reshape(len(weight), -1, patch, patch).contiguous()


def _turn(weight: Tensor, step: int, config: UNetConfig) -> Tensor:
    """Let a layer behind the sinusoids of k see those of k + step: W' [cos kf; sin kf] = W [cos (k+s)f; sin (k+s)f].

    By the addition theorems the sinusoids of a later time are those of this time, turned by sf.
    """
    cos, sin = timestep_embedding(
        torch.tensor([step], device=weight.device), config.channels, frequency_shift=config.frequency_shift
    ).chunk(2, dim=1)
    if config.sines_first:
        of_sin, of_cos = weight.chunk(2, dim=1)
        return torch.cat([of_sin * cos - of_cos * sin, of_cos * cos + of_sin * sin], dim=1)
    of_cos, of_sin = weight.chunk(2, dim=1)
    return torch.cat([of_cos * cos + of_sin * sin, of_sin * cos - of_cos * sin], dim=1)


# Our names → theirs, applied one after the other.
_RENAMES = [
    (r"^stem", "conv_in"),
    (r"^norm", "conv_norm_out"),
    (r"^head", "conv_out"),
    (r"^embed_time\.layers\.0", "time_embedding.linear_1"),
    (r"^embed_time\.layers\.2", "time_embedding.linear_2"),
    (r"^embed_class", "class_embedding"),
    (r"^(down|up)\.(\d+)\.(\d+)\.block", r"\1_blocks.\2.resnets.\3"),
    (r"^(down|up)\.(\d+)\.(\d+)\.attention", r"\1_blocks.\2.attentions.\3"),
    (r"^middle\.(\d+)\.block", r"mid_block.resnets.\1"),
    (r"^middle\.(\d+)\.attention", r"mid_block.attentions.\1"),
    (r"^downsample\.(\d+)\.(weight|bias)", r"downsample.\1.conv.\2"),
    (r"^(down|up)sample\.(\d+)", r"\1_blocks.\2.\1samplers.0"),
    (r"\.(scale_shift|shift)\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
]


def _names(key: str) -> list[str]:
    """Their name or names of our weight: q, k and v are three layers there and one here."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return [key.replace(".qkv.", f".to_{part}.") for part in "qkv"] if ".qkv." in key else [key]


def _new_name(key: str) -> str:
    """Weights saved before 2023, those of google/ddpm-cifar10-32 among them, call the attention's layers otherwise."""
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    return re.sub(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.", lambda m: f"{m[1]}.{new[m[2]]}.", key)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no {path}; give the folder of a pipeline that diffusers saved")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold options by name, got a {type(found).__name__}; fetch it again")
    return found


def _diffusers() -> Any:
    if importlib.util.find_spec("diffusers") is None:
        raise ImportError("pipelines need the package diffusers: pip install 'diffusion-book[interop]'")
    # diffusers imports torchvision, which beside a CPU build of torch has to be mended first.
    import diffusers

    import diffusion_book.data._torchvision  # noqa: F401

    return diffusers
