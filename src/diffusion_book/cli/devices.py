"""Where to compute."""

import torch


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or a GPU if there is one, or the CPU.

    Raises:
        ValueError: the machine does not have it.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one for each reason
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try cpu") from error
    return device
