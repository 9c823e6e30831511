"""A table of weights: what a network of `diffusers` calls ours, in which shape it has them, and one loop each way.

Names are regular expressions, replaced one after the other from ours to theirs. Reading goes the same way: it asks, for
each weight of ours, where theirs has it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Pattern → replacement. Several replacements are several weights, each an equal part along the first dimension.
Renames = Sequence[tuple[str, str | tuple[str, ...]]]

# What all their networks call the parts of a residual block and of attention.
RESIDUAL_BLOCK: Renames = [
    (r"\.(scale_shift|shift)\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
]
ATTENTION: Renames = [
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.qkv\.", (r"\1.to_q.", r"\1.to_k.", r"\1.to_v.")),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
]
# And the parts of a spatial transformer.
TRANSFORMER: Renames = [
    (r"(attentions\.\d+)\.enter\.", r"\1.proj_in."),
    (r"(attentions\.\d+)\.leave\.", r"\1.proj_out."),
    (r"(attentions\.\d+)\.(norm\d|itself|text|expand|contract)\.", r"\1.transformer_blocks.0.\2."),
    (r"\.itself\.", ".attn1."),
    (r"\.text\.", ".attn2."),
    (r"(attn\d)\.(q|k|v)\.", r"\1.to_\2."),
    (r"(attn\d)\.out\.", r"\1.to_out.0."),
    (r"\.expand\.", ".ff.net.0.proj."),
    (r"\.contract\.", ".ff.net.2."),
]
# Weights saved before 2023, those of google/ddpm-cifar10-32 among them, call the attention's layers otherwise.
OLD_ATTENTION: Renames = [
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
]


def as_matrix(shape: torch.Size) -> torch.Size:
    """What a linear layer has of a 1×1 convolution, [out, in, 1, 1] → [out, in]; of a bias all."""
    return shape[:2]


@dataclass(frozen=True)
class Weights:
    """The weights of a network of theirs.

    Attributes:
        owner: whose they are to become, in the words of a ValueError.
        renames: ours → theirs.
        shapes: pattern of a name of theirs → its shape from that of ours; of the others the shapes are the same.
        old: names that theirs had before → those that they have.
    """

    owner: str
    renames: Renames
    shapes: Sequence[tuple[str, Callable[[torch.Size], torch.Size]]] = ()
    old: Renames = ()

    def read(self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Theirs → ours: copies in float32.

        Args:
            found: their weights, in any precision.
            expected: tensors of ours, of which only names and shapes are asked.

        Raises:
            ValueError: a weight is lacking, there twice, of another shape, not of real numbers, or has no place.
        """
        left: dict[str, Tensor] = {}
        for key, value in found.items():
            (name,) = _renamed(key, self.old)
            if name in left:
                raise ValueError(f"{name} is there twice, once under its old name; leave one of them out")
            left[name] = value
        state = {}
        for key, like in expected.items():
            parts = [_take(left, name, shape).flatten() for name, shape in self._places(key, like.shape)]
            state[key] = torch.cat(parts).reshape(like.shape)
        if left:
            raise ValueError(f"{next(iter(left))} has no place in {self.owner}; the options do not speak of it")
        return state

    def write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ours → theirs: copies in the precision of ours."""
        state = {}
        for key, value in ours.items():
            left = value.detach().flatten()
            for name, shape in self._places(key, value.shape):
                part, left = left.tensor_split([shape.numel()])
                state[name] = part.reshape(shape).clone()
        return state

    def _places(self, key: str, shape: torch.Size) -> Iterator[tuple[str, torch.Size]]:
        """Where theirs has a weight of ours: names and shapes."""
        names = _renamed(key, self.renames)
        if len(names) > 1:
            shape = torch.Size((shape[0] // len(names), *shape[1:]))
        for name in names:
            yield name, next((reshape(shape) for pattern, reshape in self.shapes if re.search(pattern, name)), shape)


def _renamed(key: str, renames: Renames) -> list[str]:
    names = [key]
    for pattern, replacement in renames:
        if re.search(pattern, names[0]):
            parts = (replacement,) if isinstance(replacement, str) else replacement
            names = [re.sub(pattern, part, name) for name in names for part in parts]
    return names


def _take(left: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name not in left:
        raise ValueError(f"the weights lack {name}, of shape {tuple(shape)}")
    value = left.pop(name)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{name} must be a tensor {tuple(shape)} of floating point, got {kind}; quantised weights need their scales"
        )
    if value.shape != shape:
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(value.shape)}")
    return value.detach().to(torch.float32)
