"""A critic of patches: a small network that tells real pictures from decoded ones, patch by patch. Chapter 13."""

from torch import Tensor, nn

from diffusion_book._checks import at_least
from diffusion_book.nn.inputs import check_images


class PatchCritic(nn.Module):
    """Pictures [B, C, H, W] → answers [B, 1, h, w], above 0 for real: each is about one patch. Chapter 13.

    Source: Isola et al. 2017, appendix 6.1.2, with GroupNorm in the place of batch norm, so that what is said of one
    picture does not depend on the others.

    Args:
        image_channels: C.
        channels: features of the first layer, a multiple of 8; each further one has twice as many.
        layers: that halve the resolution; three of them see patches of 70 × 70 pixels, two of 34 × 34.
    """

    def __init__(self, image_channels: int = 3, channels: int = 32, layers: int = 2) -> None:
        super().__init__()
        at_least(1, image_channels=image_channels, channels=channels, layers=layers)
        self.image_channels = image_channels
        body: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for stride in [2] * (layers - 1) + [1]:
            body += [nn.Conv2d(channels, 2 * channels, 4, stride, 1, bias=False)]
            channels *= 2
            body += [nn.GroupNorm(8, channels), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, nn.Conv2d(channels, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.image_channels, self.body)
        answers: Tensor = self.body(x)
        return answers
