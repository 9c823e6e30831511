"""The loss that teaches a picture and its caption to lie close to each other, and far from all others. Chapter 9."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_book._checks import check_same_shape


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """The symmetric cross-entropy of B pictures and their B captions, by the cosines between them. Chapter 9.

    Of the captions each picture is to find its own, and of the pictures each caption: the logits are s cos(i, j), the
    right ones on the diagonal. Two captions of a batch that say the same are still counted as two.

    Args:
        images, texts: [B, D], of any lengths; those of one row belong together.
        scale: s > 0, the inverse of the temperature.

    Returns:
        [B] losses: of row i, the mean of the picture's and of the caption's cross-entropy, in nats. Chance is ln B.

    Raises:
        ValueError: images and texts are not [B, D] of one shape.

    Source: Radford et al. 2021, figure 3.
    """
    check_same_shape("the texts", texts, "the images", images)
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).mT
    own = torch.arange(len(logits), device=logits.device)
    of_images = F.cross_entropy(logits, own, reduction="none")
    of_texts = F.cross_entropy(logits.mT, own, reduction="none")
    return (of_images + of_texts) / 2
