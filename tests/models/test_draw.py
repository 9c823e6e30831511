"""`models.draw`: the one call that makes pictures."""

import pytest
import torch

from diffusion_book import denoise, models, samplers


def by_hand(model, y, seeds, steps):
    """Each picture alone, by the loop of chapter 6."""
    pictures = []
    for label, seed in zip(y, seeds):
        x_T = samplers.start_noise((1, *model.shape), torch.Generator().manual_seed(seed))
        told = {"y": torch.tensor([label])}
        denoiser = denoise.from_network(model.network, model.schedule, model.prediction, told, x0_max=1.0)
        times = samplers.log_snr_times(model.schedule, steps)
        pictures.append(samplers.dpm_solver(denoiser, model.schedule, x_T, times))
    return torch.cat(pictures).clamp(-1, 1)


def test_a_name_a_class_and_seeds_are_enough():
    found = models.draw("mnist-unet", [7, 1], range(3, 6), steps=4)
    expected = by_hand(models.load("mnist-unet"), [7, 1, 7], (3, 4, 5), 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)  # sums of a batch come in another order
    assert not found.requires_grad


def test_batches_are_the_pictures_of_one_call():
    options = {"sampler": "ddpm", "steps": 3, "guidance": 2.0}
    model = models.load("mnist-dit")
    whole = models.draw(model, [7, 1], range(5), **options)
    parts = list(models.batches(model, [7, 1], range(5), batch_size=2, **options))
    assert [len(part) for part in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dpm"}, r"unknown sampler 'dpm' \(did you mean 'ddpm'\?\)"),
        ({"steps": 1001}, "steps must be an integer in 1 … T = 1000, got 1001"),
        ({"precision": "fp16"}, "is for CUDA GPUs"),
        ({"wanted": 10}, "this model knows the classes 0 … 9, got 10"),
        ({"seeds": 16}, r"one seed for each picture is needed, such as range\(16\), got 16"),
        ({"seeds": []}, r"one seed for each picture is needed, such as range\(16\), got \[\]"),
        ({"guidance": 2.0}, "guidance needs labels: got w = 2.0 and no y"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_drawn(options, message):
    with pytest.raises(ValueError, match=message):
        models.batches("mnist-unet", **{"wanted": None, **options})  # nothing is asked for yet
