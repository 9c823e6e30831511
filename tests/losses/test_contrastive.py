"""CLIP's loss against its definition, sum by sum, and its two ends: chance and certainty."""

import math

import pytest
import torch

from diffusion_book.losses import contrastive_loss


def test_it_is_the_mean_of_two_cross_entropies(generator):
    """−log of the softmax at the right place, along the rows for pictures and along the columns for captions."""
    B, scale = 5, 7.0
    images, texts = (torch.randn(B, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = []
    cosine = [[float(i @ t / (i.norm() * t.norm())) for t in texts] for i in images]
    for k in range(B):
        row = sum(math.exp(scale * cosine[k][j]) for j in range(B))
        column = sum(math.exp(scale * cosine[j][k]) for j in range(B))
        expected.append((math.log(row) + math.log(column)) / 2 - scale * cosine[k][k])
    torch.testing.assert_close(contrastive_loss(images, texts, scale), torch.tensor(expected, dtype=torch.float64))


def test_lengths_say_nothing(generator):
    images, texts = torch.randn(2, 4, 6, generator=generator)
    stretched = images * torch.tensor([[2.0], [0.1], [30.0], [1.0]])
    torch.testing.assert_close(contrastive_loss(stretched, 5 * texts, 3.0), contrastive_loss(images, texts, 3.0))


def test_all_alike_is_chance_and_all_apart_is_certain():
    same = torch.ones(8, 16)
    torch.testing.assert_close(contrastive_loss(same, same, 100.0), torch.full((8,), math.log(8)))
    apart = torch.eye(8)
    # Seven cosines of 0 beside one of 1: log(1 + 7 e^−s).
    torch.testing.assert_close(contrastive_loss(apart, apart, 4.0), torch.full((8,), math.log1p(7 * math.exp(-4))))


def test_pictures_and_captions_are_of_one_number():
    with pytest.raises(ValueError, match="the texts"):
        contrastive_loss(torch.ones(3, 2), torch.ones(2, 2), 1.0)
