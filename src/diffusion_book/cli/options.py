"""The options that commands share, and where to compute."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

Model = Annotated[
    str, typer.Option("--model", "-m", help="A name of the zoo, the folder of a run, or a .safetensors file.")
]
Sampler = Annotated[
    str, typer.Option(help="dpm_solver, unipc, heun, euler, ddim, ddpm, or another of `samplers.SAMPLERS`.")
]
Steps = Annotated[int, typer.Option(min=1, help="Of the sampler.")]
Interval = Annotated[
    tuple[float, float], typer.Option(help="Guide only where the noise σ is above the first, up to the second.")
]
Size = Annotated[int | None, typer.Option(min=1, help="Side in pixels, for a file that does not say.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, … [default: the GPU if there is one]")]


def pick_device(name: str | None) -> "torch.device":
    """The device of that name, or a GPU if there is one, or the CPU.

    Raises:
        ValueError: the machine does not have it.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one for each reason
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try cpu") from error
    return device
