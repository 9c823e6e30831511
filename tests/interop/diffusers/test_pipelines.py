"""Pipelines as folders: those of ours draw in `diffusers` what ours draw, and come back."""

import sys
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline
from torch.nn.functional import pixel_shuffle

from _support.networks import randomised
from diffusion_book import denoise, samplers, schedules
from diffusion_book.interop import load_pipeline, save_pipeline
from diffusion_book.nn import SIZES, UNet


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(schedules.linear(20, 1e-3, 0.3), "v"), (schedules.Flow(), "u"), (schedules.EDM(20.0, 0.7), "F")],
)
def test_a_pipeline_of_a_network_with_patches_draws_what_ours_draws(schedule, prediction, tmp_path):
    """Its own loop, whose unshuffled noise is given to ours as noise of images; DDIM where the schedule has steps."""
    discrete = isinstance(schedule, schedules.Discrete)
    config = replace(SIZES["tiny"], image_channels=3, patch=2, time_origin=int(discrete))
    ours = randomised(UNet(config))
    save_pipeline(tmp_path, ours, schedule, prediction, image_size=16)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if discrete:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    drawn = pipeline(2, num_inference_steps=5, generator=torch.Generator().manual_seed(7), output_type="pt").images
    assert drawn.shape == (2, 12, 8, 8)
    found = pixel_shuffle(drawn, 2)

    again, schedule_again, prediction_again = load_pipeline(tmp_path, patch=2)
    assert again.config == config
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
    assert prediction_again == prediction
    if discrete:
        times = [int(k) + 1 for k in pipeline.scheduler.timesteps] + [0]
    else:
        times = pipeline.scheduler.sigmas.double().clamp(max=schedule.T).tolist()
    noise = samplers.start_noise((2, 12, 8, 8), torch.Generator().manual_seed(7), schedule=schedule)
    denoiser = denoise.from_network(again, schedule_again, prediction)
    x0 = samplers.ddim(denoiser, schedule_again, pixel_shuffle(noise, 2), times)
    # As without patches: float32 at each step, and their tables of a and b for a schedule with steps.
    atol = 1e-4 if discrete else 1e-5
    torch.testing.assert_close(found, (x0 / 2 + 0.5).clamp(0, 1), rtol=0, atol=atol)
    assert found.std() > 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 3}, "image_size = 8 does not fit: patch = 3 needs multiples of 3"),
        ({"context_dim": 4}, "context_dim = 4 cannot be written as a UNet2DModel: it reads no text"),
        ({"conditioning": "add", "middle_attention_norm": False}, "middle_attention_norm = False cannot be written"),
    ],
)
def test_an_option_that_cannot_be_written_is_named_and_nothing_is_written(changes, message, tmp_path):
    unet = UNet(replace(SIZES["tiny"], **changes))
    with pytest.raises(ValueError, match=message):
        save_pipeline(tmp_path / "pipeline", unet, schedules.linear(), "eps", 8)
    assert not (tmp_path / "pipeline").exists()


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_a_pipeline_saved_here_samples_there_like_ours(prediction, tmp_path):
    """DDPMPipeline's own loop from the same seed: it draws x_T and then the noise of each step, as our `ddpm` does."""
    schedule = schedules.cosine(8)
    ours = randomised(UNet(replace(SIZES["tiny"], image_channels=3)))
    save_pipeline(tmp_path, ours, schedule, prediction, image_size=8)
    pipeline = DDPMPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(2, torch.Generator().manual_seed(7), num_inference_steps=8, output_type="pt").images

    generator = torch.Generator().manual_seed(7)
    xt = samplers.start_noise((2, 3, 8, 8), generator)
    denoiser = denoise.from_network(ours, schedule, prediction, x0_max=1.0)
    x0 = samplers.ddpm(denoiser, schedule, xt, samplers.uniform_times(schedule, 8), generator=generator)
    # Their tables are float32: 1 − ᾱ_t carries 6e-8 / (1 − ᾱ_1) ≈ 1e-6, and the steps add up.
    torch.testing.assert_close(found, (x0 / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)
    assert found.std() > 0.05

    again, schedule_again, prediction_again = load_pipeline(tmp_path)
    assert prediction_again == prediction
    assert torch.equal(schedule_again.beta, schedule.beta)
    x, t = torch.randn(2, 3, 8, 8, generator=generator), torch.tensor([1, 8])
    with torch.no_grad():
        torch.testing.assert_close(again(x, t), ours(x, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 20])
def test_ddim_of_diffusers_agrees_with_ours_on_a_saved_network(steps, tmp_path):
    schedule = schedules.linear(20, 1e-3, 0.3)
    ours = randomised(UNet(SIZES["tiny"]))
    save_pipeline(tmp_path, ours, schedule, "eps", image_size=8)
    pipeline = DDPMPipeline.from_pretrained(tmp_path, local_files_only=True)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(steps)
    start = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    xt = start
    with torch.no_grad():
        for k in scheduler.timesteps:
            xt = scheduler.step(pipeline.unet(xt, k).sample, k, xt).prev_sample
    times = [int(k) + 1 for k in scheduler.timesteps] + [0]
    x0 = samplers.ddim(denoise.from_network(ours, schedule, "eps"), schedule, start, times)
    # x̂0 = (x_t − b ε)/a divides what single precision loses by a_T ≈ 0.17, at each of the steps.
    torch.testing.assert_close(xt, x0, rtol=1e-4, atol=1e-4)


def test_a_learned_variance_is_told_to_the_scheduler(tmp_path):
    unet = randomised(UNet(replace(SIZES["tiny"], learned_variance=True)))
    save_pipeline(tmp_path, unet, schedules.linear(10, 1e-3, 0.3), "eps", 8)
    pipeline = DDPMPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    assert pipeline(1, num_inference_steps=2, output_type="pt").images.shape == (1, 1, 8, 8)
    assert load_pipeline(tmp_path)[0].config.learned_variance


def test_weights_are_safetensors_or_nothing(tmp_path):
    save_pipeline(tmp_path, UNet(SIZES["tiny"]), schedules.linear(), "eps", 8)
    assert sorted(path.name for path in (tmp_path / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "unet" / "model.bin")
    with pytest.raises(ValueError, match="weights are read from safetensors only, because other files can run code"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(schedules.Flow(), "u"), (schedules.EDM(20.0, 0.7), "F"), (schedules.EDM(), "F")],
)
def test_a_flow_and_edm_saved_here_sample_there_like_ours(schedule, prediction, tmp_path):
    """The pipeline's own loop, from the noise that `start_noise` draws; our `ddim` on the same times."""
    ours = randomised(UNet(replace(SIZES["tiny"], image_channels=3)))
    save_pipeline(tmp_path, ours, schedule, prediction, image_size=8)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    found = pipeline(2, num_inference_steps=8, generator=generator, output_type="pt").images

    again, schedule_again, prediction_again = load_pipeline(tmp_path)
    assert again.config == ours.config  # `time_origin` too, so that the weights went and came as they are
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
    assert prediction_again == prediction
    assert vars(schedule_again) == vars(schedule)
    times = pipeline.scheduler.sigmas.double().clamp(max=schedule.T).tolist()  # 80 in float32, and a hair above
    xt = samplers.start_noise((2, 3, 8, 8), torch.Generator().manual_seed(7), schedule=schedule)
    x0 = samplers.ddim(denoise.from_network(again, schedule_again, prediction), schedule_again, xt, times)
    # Both are float32, 6e-8 at each of the few operations of each of the 8 steps.
    torch.testing.assert_close(found, (x0 / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
    assert found.std() > 0.05


def test_the_times_of_a_flow_and_of_edm_are_those_that_their_network_is_told(tmp_path):
    """Both networks note what they are asked: the picture as it comes in, and the number for the time."""
    for schedule, prediction in ((schedules.Flow(), "u"), (schedules.EDM(), "F")):
        save_pipeline(tmp_path, UNet(replace(SIZES["tiny"], image_channels=3)), schedule, prediction, 8)
        pipeline = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        there, here = [], []
        pipeline.unet.register_forward_pre_hook(lambda _, inputs, there=there: there.append(inputs))
        pipeline(2, num_inference_steps=5, generator=torch.Generator().manual_seed(7), output_type="pt")

        def network(x, t, here=here):
            here.append((x, t[0]))
            return torch.zeros_like(x)

        times = pipeline.scheduler.sigmas.double().clamp(max=schedule.T).tolist()
        xt = samplers.start_noise((2, 3, 8, 8), torch.Generator().manual_seed(7), schedule=schedule)
        samplers.ddim(denoise.from_network(network, schedule, prediction), schedule, xt, times)
        assert len(here) == 5
        for (x, t), (their_x, their_t) in zip(here, there, strict=True):
            torch.testing.assert_close(x, their_x, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(t, their_t, rtol=1e-6, atol=1e-6)


def test_damaged_files_are_named(tmp_path):
    save_pipeline(tmp_path, UNet(SIZES["tiny"]), schedules.linear(), "eps", 8)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors is damaged"):
        load_pipeline(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        load_pipeline(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config.json must hold options by name, got a list"):
        load_pipeline(tmp_path)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no .*scheduler_config.json; give the folder of a pipeline"):
        load_pipeline(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusion-book\[interop\]'"):
        save_pipeline(tmp_path, UNet(SIZES["tiny"]), schedules.linear(), "eps", 8)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_says_a_thing_twice_is_named(tmp_path):
    save_pipeline(tmp_path, UNet(SIZES["tiny"]), schedules.linear(), "eps", 8)
    file = tmp_path / "unet" / "config.json"
    text = file.read_text("utf8")
    file.write_text(text.replace("{", '{"norm_eps": 1e-6,', 1), "utf8")
    with pytest.raises(ValueError, match=r"config.json cannot be read \(norm_eps stands there twice, as 1e-06 and as"):
        load_pipeline(tmp_path)
    file.write_text(text, "utf-8-sig")  # as an editor on Windows leaves it
    load_pipeline(tmp_path)


def test_home_is_found(tmp_path, monkeypatch):
    """A program has no shell that would know `~`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save_pipeline("~/pipeline", UNet(SIZES["tiny"]), schedules.linear(), "eps", 8)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert load_pipeline("~/pipeline")[2] == "eps"


def test_a_compiled_network_is_written_as_the_network_that_it_is(tmp_path):
    unet = UNet(SIZES["tiny"])
    save_pipeline(tmp_path, torch.compile(unet), schedules.Flow(), "u", 8)
    again = load_pipeline(tmp_path)[0]
    assert again.config == unet.config
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in unet.state_dict().items())
