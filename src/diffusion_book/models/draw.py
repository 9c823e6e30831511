"""Pictures from a model: the same seed is the same picture, whatever is drawn beside it. Chapter 12.

    models.draw("mnist-unet", 7, range(16))                         sixteen sevens
    models.draw("mnist-unet", [0, 1, 2], range(6), guidance=2)      in turn, more typical of their class

`batches` hands the same pictures over a few at a time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_book import samplers
from diffusion_book.conditions import take
from diffusion_book.models.conditioner import Wanted
from diffusion_book.models.files import load
from diffusion_book.models.model import Guidance, Model
from diffusion_book.training.precision import Precision, autocast, resolve


def draw(
    model: Model | Path | str,
    wanted: Wanted = None,
    seeds: Sequence[int] = range(16),
    *,
    sampler: str = "dpm_solver",
    steps: int = 18,
    guidance: Guidance | float = 1.0,
    batch_size: int = 64,
    precision: Precision = "fp32",
    progress: bool = False,
) -> Tensor:
    """One picture for each seed, [N, C, H, W] in [−1, 1], on the CPU.

    Args:
        model: a `Model`, or what `load` takes: a name of the zoo, the folder of a run, or a file of weights.
        wanted: a class; several, which come in turn; or None, for anything.
        seeds: of the pictures, one each.
        sampler: by its name, one of `samplers.SAMPLERS`. steps: of it.
        guidance: a number w, 1 for none; or a `Guidance` that also says where, or away from which worse model.
        batch_size: pictures at once; changes memory, not pictures.
        precision: of the network. In bfloat16 a picture depends a little on those that are drawn beside it.
        progress: show a bar, where someone looks.

    Raises:
        ValueError: an unknown model or sampler; what the model does not know, such as a label; or a precision that the
            device does not have.
    """
    return torch.cat(
        list(
            batches(
                model,
                wanted,
                seeds,
                sampler=sampler,
                steps=steps,
                guidance=guidance,
                batch_size=batch_size,
                precision=precision,
                progress=progress,
            )
        )
    )


def batches(
    model: Model | Path | str,
    wanted: Wanted = None,
    seeds: Sequence[int] = range(16),
    *,
    sampler: str = "dpm_solver",
    steps: int = 18,
    guidance: Guidance | float = 1.0,
    batch_size: int = 64,
    precision: Precision = "fp32",
    progress: bool = False,
) -> Iterator[Tensor]:
    """The pictures of `draw`, a batch at a time: for more of them than the memory holds.

    What is wrong is told by the call, before the first picture is asked for.
    """
    found = model if isinstance(model, Model) else load(model)
    chosen = samplers.by_name(sampler)
    _check_seeds(seeds)
    conditions = found.conditioner.conditions(wanted, len(seeds))
    found.denoiser(conditions, guidance)  # complains, where there is reason to
    times = chosen.grid(found.schedule, steps)
    shape = found.codec.shape(found.known_shape)
    device = next(found.network.parameters()).device
    resolve(precision, device)  # complains as well

    def drawn() -> Iterator[Tensor]:
        calls = -(-len(seeds) // batch_size) * steps
        with tqdm(total=calls, desc="sampling", disable=None if progress else True) as bar:
            for start in range(0, len(seeds), batch_size):
                few = slice(start, start + batch_size)
                generators = samplers.seeded(seeds[few])
                told = {name: values.to(device) for name, values in take(conditions, few).items()}
                x_T = samplers.start_noise(
                    (len(generators), *shape), generators, device=device, schedule=found.schedule
                )
                denoiser = found.denoiser(told, guidance)
                with autocast(precision, device):
                    x0 = chosen(
                        denoiser, found.schedule, x_T, times, generator=generators, callback=lambda _: bar.update()
                    )
                yield found.codec.decode(x0).cpu()

    return drawn()


def _check_seeds(seeds: Sequence[int]) -> None:
    if isinstance(seeds, int | str) or not len(seeds):
        raise ValueError(f"one seed for each picture is needed, such as range(16), got {seeds!r:.80}")
