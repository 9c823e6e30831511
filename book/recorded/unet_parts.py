"""What each part of chapter 5's U-Net is worth on small digits, and the picture that opens the chapter.

The networks are the page's own: its cells with the tag `program` are run here as they stand there.
"""

import re
import time
from typing import Any

import torch
from record import ROOT, record
from torch import Tensor, nn

PAGE = ROOT / "book" / "05-unet.md"
TIMES = (100, 300, 500, 700, 900)
SHOWN = 300  # the time of the opening picture


def programs() -> dict[str, Any]:
    """What the page's programs define."""
    names: dict[str, Any] = {}
    for tags, code in re.findall(
        r"^```\{code-cell\}\n:tags: \[(.*?)\]\n(.*?)^```$", PAGE.read_text("utf8"), re.M | re.S
    ):
        if "program" in tags.split(", "):
            exec(code, names)
    return names


class Nothing(nn.Identity):
    """In the place of attention."""

    def __init__(self, c: int) -> None:
        super().__init__()


def network(page: dict[str, Any], name: str) -> nn.Module:
    """The U-Net with one part changed, or the transformer of about as many operations."""
    if name == "DiT":
        dit = page["library"].DiTConfig(width=64, depth=5, heads=4, patch=2)
        return page["library"].DiT(dit)  # type: ignore[no-any-return]
    parts = {"without attention": {"look": Nothing}, "add": {"block": page["AddBlock"]}}
    unet: nn.Module = page["UNet"](c=16, patch=1, **parts.get(name, {}))
    if name == "without zeros":  # as PyTorch draws them; the head stays at zero
        for module in unet.modules():
            if isinstance(module, page["Block"]):
                module.conv2.reset_parameters()
            elif isinstance(module, page["Attention"]):
                module.out.reset_parameters()
    return unet


NAMES = ("U-Net", "without attention", "without zeros", "add", "DiT")


@torch.no_grad()
def strip(pictures: Tensor) -> Tensor:
    """Pictures [N, 1, H, W] side by side."""
    return torch.cat(list(pictures), dim=2).clamp(-1, 1)


def opening(page: dict[str, Any], steps: int, seed: int) -> dict[str, Tensor]:
    """Ten unseen digits, their noisy form, and what the ladder with and without skips makes of that."""
    chosen = page["unseen"][12::25]  # one of each kind
    t = torch.full((10,), SHOWN)
    xt, _ = page["noised"](chosen, t, torch.Generator().manual_seed(seed))
    level = page["cosine"].at(t).like(xt)
    rows = {"clean": strip(chosen), "noisy": strip(xt)}
    for name, skips in {"with skips": True, "without skips": False}.items():
        torch.manual_seed(seed)
        ladder = page["train"](page["Ladder"](skips=skips), steps, seed, at=SHOWN)
        with torch.no_grad():
            rows[name] = strip(level.a * xt - level.b * ladder(xt, t))
    return rows


def measure(steps: int, ladder_steps: int, seeds: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    page = programs()
    losses: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for i in range(seeds):
        for name in NAMES:
            torch.manual_seed(seed + i)
            start = time.process_time()
            trained = page["train"](network(page, name), steps, seed + i)
            seconds[name].append(time.process_time() - start)
            losses[name].append([page["unseen_loss"](trained, t) for t in TIMES])
            print(name, i, sum(losses[name][-1]) / len(TIMES), flush=True)
    means = {f"loss of {name}": sum(losses[name][0]) / len(TIMES) for name in NAMES}
    pictures = opening(page, ladder_steps, seed)
    return {"times": TIMES, "losses": losses, "seconds": seconds, **means, "pictures": pictures}


if __name__ == "__main__":
    record(
        measure,
        "The loss on unseen digits of 16 × 16 pixels of a small U-Net, of the same with one part changed, and of "
        "a DiT of as many operations, each with three seeds.",
        seed=0,
        full={"steps": 200, "ladder_steps": 300, "seeds": 3},
        small={"steps": 4, "ladder_steps": 4, "seeds": 1},
        tolerance={f"loss of {name}": 0.02 for name in NAMES},
    )
