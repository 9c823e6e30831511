"""Two-dimensional toys. A Gaussian mixture knows its exact density, score and optimal denoiser at every noise level."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_book.conditions import Conditions


@dataclass(frozen=True)
class GaussianMixture:
    """Σ_k w_k N(μ_k, Σ_k) in D dimensions: the oracle of this book.

    Noising it with x_t = a x_0 + b ε gives another mixture, N(a μ_k, a² Σ_k + b² I), so everything that a network
    would have to learn is known exactly. Derived in chapter 3.

    Args:
        weight: [K] positive, summing to one.
        mean: [K, D].
        cov: [K, D, D] symmetric positive definite.
    """

    weight: Tensor
    mean: Tensor
    cov: Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 2:
            raise ValueError(f"mean must be [K, D], got shape {tuple(self.mean.shape)}")
        K, D = self.mean.shape
        if self.weight.shape != (K,) or self.cov.shape != (K, D, D):
            raise ValueError(
                f"with {K} means in {D} dimensions weight must be [{K}] and cov [{K}, {D}, {D}], "
                f"got {tuple(self.weight.shape)} and {tuple(self.cov.shape)}"
            )
        if not bool((self.weight > 0).all()) or abs(float(self.weight.sum()) - 1) > 1e-5:
            raise ValueError(f"weights must be positive and sum to one, got {self.weight.tolist()}")
        if not torch.allclose(self.cov, self.cov.mT) or not bool((torch.linalg.eigvalsh(self.cov) > 0).all()):
            raise ValueError(f"each cov must be symmetric and positive definite, got {self.cov.tolist()}")

    def noised(self, a: float, b: float) -> "GaussianMixture":
        """The distribution of a x_0 + b ε."""
        eye = torch.eye(self.mean.shape[1], dtype=self.cov.dtype)
        return GaussianMixture(self.weight, a * self.mean, a**2 * self.cov + b**2 * eye)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """[n, D] independent draws."""
        k = torch.multinomial(self.weight, n, replacement=True, generator=generator)
        z = torch.randn(n, self.mean.shape[1], generator=generator, dtype=self.mean.dtype)
        return self.mean[k] + torch.einsum("nij,nj->ni", torch.linalg.cholesky(self.cov)[k], z)

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        """`size` draws in float32 and no conditions: what `training.train` asks of its data."""
        return self.sample(size, generator).float(), {}

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, [N] for x [N, D]."""
        a, b = x.new_ones(()), x.new_zeros(())
        return self._log_joint(x, a, b)[0].logsumexp(1)

    def score(self, x: Tensor, a: Tensor | float = 1.0, b: Tensor | float = 0.0) -> Tensor:
        """∇ log q(x_t) at x, [N, D], of the mixture noised with a and b (numbers, or [N, 1])."""
        log_joint, pull = self._log_joint(x, _like(a, x), _like(b, x))
        return -torch.einsum("nk,nkd->nd", log_joint.softmax(1), pull)

    def posterior_mean(self, xt: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """E[x_0 | x_t] for x_t = a x_0 + b ε, [N, D]: the optimal denoiser, exact also where a = 0 or b = 0."""
        a, b = _like(a, xt), _like(b, xt)
        log_joint, pull = self._log_joint(xt, a, b)
        # For one component E[x_0 | x_t] = μ + a Σ (a² Σ + b² I)⁻¹ (x_t − a μ).
        given_k = self.mean.to(xt) + a[..., None] * torch.einsum("kij,nkj->nki", self.cov.to(xt), pull)
        return torch.einsum("nk,nkd->nd", log_joint.softmax(1), given_k)

    def _log_joint(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(x; a μ_k, C_k) as [N, K], and C_k⁻¹ (x − a μ_k) as [N, K, D], with C_k = a² Σ_k + b² I."""
        # In the eigenbasis of Σ_k the noised covariance is diagonal for every a and b at once.
        eigenvalue, basis = torch.linalg.eigh(self.cov.to(x))
        variance = a[..., None] ** 2 * eigenvalue + b[..., None] ** 2  # [N or 1, K, D]
        offset = torch.einsum("kji,nkj->nki", basis, x[:, None] - a[..., None] * self.mean.to(x))
        log_normal = -0.5 * (offset**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        pull = torch.einsum("kij,nkj->nki", basis, offset / variance)
        return self.weight.to(x).log() + log_normal, pull


def _like(value: Tensor | float, x: Tensor) -> Tensor:
    """A number as a tensor of x's dtype, without a detour through float32."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def _isotropic(mean: Tensor, std: float) -> GaussianMixture:
    K, D = mean.shape
    cov = std**2 * torch.eye(D, dtype=mean.dtype).expand(K, D, D).clone()
    return GaussianMixture(torch.full((K,), 1 / K, dtype=mean.dtype), mean, cov)


def ring_of_gaussians(count: int = 8, radius: float = 2.0, std: float = 0.15) -> GaussianMixture:
    """`count` equal blobs on a circle (float64)."""
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    return _isotropic(radius * torch.stack([angle.cos(), angle.sin()], 1), std)


def grid_of_gaussians(side: int = 3, spacing: float = 1.5, std: float = 0.12) -> GaussianMixture:
    """side × side equal blobs on a square lattice around the origin (float64)."""
    axis = spacing * (torch.arange(side, dtype=torch.float64) - (side - 1) / 2)
    return _isotropic(torch.cartesian_prod(axis, axis), std)


def two_moons(n: int, generator: torch.Generator, noise: float = 0.08) -> Tensor:
    """[n, 2] draws from two interleaved half circles, roughly centred with unit scale."""
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.rand(n, generator=generator) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return 1.5 * (torch.stack([x, y], 1) + noise * torch.randn(n, 2, generator=generator))


def checkerboard(n: int, generator: torch.Generator, cells: int = 4) -> Tensor:
    """[n, 2] draws uniform on the dark squares of a board of cells × cells over [−2, 2]²; cells is even."""
    if cells < 2 or cells % 2:
        raise ValueError(f"cells must be even, so that every column has as many dark squares, got {cells}")
    column = torch.randint(cells, (n,), generator=generator)
    row = 2 * torch.randint(cells // 2, (n,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1)
    return 4 * (corner + torch.rand(n, 2, generator=generator)) / cells - 2
