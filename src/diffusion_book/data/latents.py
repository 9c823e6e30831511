"""Pictures as an autoencoder keeps them: encoded once, and then read as any examples are. Chapter 13.

latents = encoded(data.load("scenes", size=64), codec.encode, codec.sha256, folder, count=65_536)
latents.take(torch.tensor([0]))         one latent, and what is known of its picture
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from diffusion_book._checks import at_least
from diffusion_book._files import write_whole
from diffusion_book.conditions import Conditions, take
from diffusion_book.data.examples import Examples
from diffusion_book.data.vocabulary import Vocabulary

TOGETHER = 64
"""Pictures that are encoded at once."""


@dataclass(frozen=True)
class Latents(Examples):
    """Latents of examples, with all that is known of these.

    Attributes:
        x0: [N, L, h, w], in float16: of about standard deviation 1, they lose a two-thousandth of each number.
        conditions: of the examples, [N, …] each.
        identity: SHA-256 of what they were made of.
        name: where they came from.
        class_names: what classes are called, label by label. vocabulary: of captions in words of one's own.
    """

    x0: Tensor
    conditions: Conditions
    identity: str
    name: str
    class_names: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None

    def __len__(self) -> int:
        return len(self.x0)

    def take(self, index: Tensor) -> tuple[Tensor, Conditions]:
        """The latents of these numbers, in float32, and their conditions."""
        return self.x0[index].float(), take(self.conditions, index)

    @property
    def sha256(self) -> str:
        """Of the examples, of the encoder, and of how many they are."""
        return self.identity


def encoded(
    examples: Examples,
    encode: Callable[[Tensor], Tensor],
    of: str,
    folder: Path | None = None,
    count: int | None = None,
) -> Latents:
    """The latents of the first examples, from the folder where they were encoded before.

    Args:
        examples: pictures. count: how many of them; None for all.
        encode: pictures [B, C, H, W] → latents [B, L, h, w].
        of: SHA-256 of the encoder, all that decides what it makes of pictures.
        folder: that keeps them for the next time; None for none.

    Raises:
        ValueError: what the encoder raises; or it makes numbers that float16 cannot hold.
        OSError: the folder cannot be written to.
    """
    wanted = len(examples) if count is None else min(count, len(examples))
    at_least(1, count=wanted)
    identity = hashlib.sha256(json.dumps([examples.sha256, of, wanted]).encode()).hexdigest()
    file = folder / f"{identity}.safetensors" if folder else None
    kept = _read(file) if file else None
    if kept is None:
        kept = _encode(examples, encode, wanted)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, safetensors.torch.save({name: values.contiguous() for name, values in kept.items()}))
    name, class_names = getattr(examples, "name", "examples"), getattr(examples, "class_names", ())
    conditions = {key.removeprefix("told."): values for key, values in kept.items() if key != "x0"}
    vocabulary = getattr(examples, "vocabulary", None)
    return Latents(kept["x0"], conditions, identity, f"latents of {name}", tuple(class_names), vocabulary)


def _encode(examples: Examples, encode: Callable[[Tensor], Tensor], count: int) -> dict[str, Tensor]:
    parts: list[dict[str, Tensor]] = []
    index = torch.arange(count, device="cpu").split(TOGETHER)
    for some in tqdm(index, desc=f"encoding {count:,} pictures", disable=None):
        x, conditions = examples.take(some)
        z = encode(x).detach().cpu()
        parts.append({"x0": _halve(z), **{f"told.{name}": values for name, values in conditions.items()}})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _halve(z: Tensor) -> Tensor:
    half = z.half()
    if not half.isfinite().all():
        raise ValueError(
            f"latents reach {float(z.abs().max()):.3g}, too far for float16; scale them to standard deviation 1 first"
        )
    return half


def _read(file: Path) -> dict[str, Tensor] | None:
    """None where there is no such file, or one that was damaged."""
    with contextlib.suppress(OSError, SafetensorError):
        return safetensors.torch.load(file.read_bytes())
    return None
