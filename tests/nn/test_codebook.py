"""A codebook: the nearest code by brute force, and gradients that go past it, to the codes, and to the vectors."""

import pytest
import torch

from diffusion_book.nn.codebook import Codebook


@pytest.fixture
def codebook() -> Codebook:
    torch.manual_seed(0)
    return Codebook(5, 2, commitment=0.3).double()


def test_the_nearest_code_is_taken(codebook, generator):
    z = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    found = codebook(z)
    distances = (z[..., None, :] - codebook.codes).square().sum(-1)
    assert torch.equal(found.codes, distances.argmin(-1))
    torch.testing.assert_close(found.z, codebook.codes[found.codes])
    torch.testing.assert_close(found.loss, 1.3 * distances.amin(-1))


def test_gradients_go_where_they_are_meant_to(codebook, generator):
    z = torch.randn(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    found = codebook(z)
    (3 * found.z[:, 0] - found.z[:, 1]).sum().backward()
    assert z.grad.tolist() == [[3.0, -1.0]] * 6  # straight through
    assert codebook.codes.grad is None

    z.grad = None
    codebook(z).loss.sum().backward()
    e = codebook.codes.detach()[found.codes]
    torch.testing.assert_close(z.grad, 2 * 0.3 * (z - e).detach())
    wanted = torch.zeros(5, 2, dtype=torch.float64).index_add(0, found.codes, 2 * (e - z).detach())
    torch.testing.assert_close(codebook.codes.grad, wanted)


def test_codes_find_the_places_of_a_few_points():
    """K codes and K far points: with every point near another code, the loss falls to zero."""
    points = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    codebook = Codebook(3, 2)
    with torch.no_grad():
        codebook.codes.copy_(0.5 * points)
    optimiser = torch.optim.SGD(codebook.parameters(), 0.1)
    for _ in range(60):
        optimiser.zero_grad()
        codebook(points).loss.sum().backward()
        optimiser.step()
    torch.testing.assert_close(codebook.codes.detach(), points, rtol=0, atol=1e-4)


def test_vectors_of_another_length_are_refused(codebook):
    with pytest.raises(ValueError, match=r"vectors must be \[B, …, 2\], got shape \(4, 3\)"):
        codebook(torch.zeros(4, 3, dtype=torch.float64))
