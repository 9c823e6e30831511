"""Networks and pipelines against `diffusers` itself: the same numbers on both sides, and back again."""

import inspect
import json
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UNet2DModel,
)
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffusion_book import denoise, predictions, samplers, schedules
from diffusion_book.interop import load_pipeline, save_pipeline, unet_from_diffusers, unet_to_diffusers
from diffusion_book.nn import MLP, SIZES, UNet, UNetConfig

K4 = torch.tensor([0, 249, 699, 999])  # their timesteps
T4 = K4 + 1  # our times

TINY = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
# The config.json of google/ddpm-cifar10-32, which Ho et al.'s weights were converted to.
CIFAR10 = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
# The network that benchmarks/unet.py compares with.
BASELINE = {
    "sample_size": 32,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 32,
    "attention_head_dim": 32,
}
SCALE_SHIFT = TINY | {"resnet_time_scale_shift": "scale_shift"}
CONFIGS = {
    "tiny": TINY,
    "cifar10": CIFAR10,
    "baseline": BASELINE,
    "defaults": {"block_out_channels": (32, 64, 64, 64)},
    "classes": TINY | {"num_class_embeds": 11},
    "scale-shift": SCALE_SHIFT,
    "scale-shift-norm": SCALE_SHIFT | {"attn_norm_num_groups": 8, "attention_head_dim": 16},
    "scale-shift-no-attention": SCALE_SHIFT
    | {"add_attention": False, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
    "middle-only": TINY | {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
    "no-middle": TINY | {"add_attention": False, "in_channels": 1, "out_channels": 1},
    "learned-variance": TINY | {"out_channels": 6, "act_fn": "swish"},
    "fractions": TINY | {"block_out_channels": (16, 24), "time_embedding_dim": 64, "dropout": 0.1},
    "resnet": TINY
    | {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
    },
}


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Away from zeros and ones, so that no two weights may be exchanged unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def options(theirs: UNet2DModel) -> dict:
    """As JSON knows them, and without those that start with an underscore."""
    return json.loads(json.dumps({key: value for key, value in theirs.config.items() if key[0] != "_"}))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_network_of_diffusers_says_the_same_here_and_goes_back_bit_for_bit(config, generator):
    theirs = UNet2DModel(**{key: value for key, value in config.items() if key[0] != "_"})
    # Small networks get weights that excite every branch; the wide ones keep to their initial size.
    theirs = randomised(theirs) if max(config["block_out_channels"]) < 64 else theirs.eval()
    ours = unet_from_diffusers(config, theirs.state_dict())
    side = 8 if len(config["block_out_channels"]) < 4 else 16
    x = torch.randn(4, ours.config.image_channels, side, side, generator=generator)
    y = torch.tensor([0, 3, 9, 10]) if ours.config.classes else None
    with torch.no_grad():
        expected = theirs(x, K4, class_labels=y).sample
        torch.testing.assert_close(ours(x, T4, y), expected, rtol=1e-5, atol=1e-5)

    back, state = unet_to_diffusers(ours, config.get("sample_size"))
    expected_options = options(theirs) | {"act_fn": "silu", "time_embedding_dim": None}  # two names of each
    assert json.loads(json.dumps(back)) == expected_options
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())


OURS = {
    "tiny": SIZES["tiny"],
    "digits-unpatched": replace(SIZES["digits"], patch=1, classes=10),
    "small": replace(SIZES["small"], channels=32),
    "learned-variance": replace(SIZES["tiny"], learned_variance=True, image_channels=3),
    "others": replace(
        SIZES["tiny"],
        conditioning="add",
        resample="block",
        sines_first=True,
        frequency_shift=1,
        pad_end=True,
        norm_eps=1e-6,
        head_channels=None,
    ),
    "no-attention": replace(SIZES["tiny"], attention_levels=()),
    "middle-without-norm": replace(SIZES["tiny"], middle_attention_norm=False, time_origin=3),
}


@pytest.mark.parametrize("config", OURS.values(), ids=OURS.keys())
def test_a_network_of_ours_says_the_same_there_and_comes_back(config, generator):
    """Its sinusoids start at 0 where theirs start at 1, so the first layer behind them is turned."""
    ours = randomised(UNet(config))
    options, state = unet_to_diffusers(ours, 8)
    theirs = UNet2DModel(**options).eval()
    theirs.load_state_dict(state)
    again = unet_from_diffusers(options, state, last_is_no_label=bool(config.classes))
    assert again.config == replace(config, time_origin=1)
    x = torch.randn(4, config.image_channels, 8, 8, generator=generator)
    y = torch.tensor([0, 3, 9, 10]) if config.classes else None
    with torch.no_grad():
        expected = ours(x, T4, y)
        # An angle of up to 1000 in single precision is off by 1000 · 6e-8 on either side.
        torch.testing.assert_close(theirs(x, K4, class_labels=y).sample, expected, rtol=0, atol=5e-4)
        torch.testing.assert_close(again(x, T4, y), expected, rtol=0, atol=5e-4)
    late = torch.nn.functional.mse_loss(theirs(x, T4, class_labels=y).sample, expected)
    assert late.sqrt() > 2e-3, "the tolerance could not tell one time from the next"


def test_what_was_written_is_read_bit_for_bit():
    ours = randomised(UNet(replace(SIZES["tiny"], time_origin=1, classes=4)))
    again = unet_from_diffusers(*unet_to_diffusers(ours), last_is_no_label=True)
    assert again.config == ours.config
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())


def test_a_copy_is_a_copy_and_can_be_trained():
    theirs = UNet2DModel(**TINY)
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    ours = unet_from_diffusers(TINY, theirs.state_dict())
    _, state = unet_to_diffusers(ours)
    with torch.no_grad():
        for parameter in ours.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in state.items())


def test_the_old_names_of_attention_are_understood(generator):
    theirs = randomised(UNet2DModel(**TINY))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in theirs.state_dict().items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        state[key] = value
    assert "mid_block.attentions.0.proj_attn.weight" in state
    x = torch.randn(4, 3, 8, 8, generator=generator)
    with torch.no_grad():
        expected = theirs(x, K4).sample
        torch.testing.assert_close(unet_from_diffusers(TINY, state)(x, T4), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"center_input_sample": True}, "center_input_sample = True does not fit: our UNet needs False"),
        ({"time_embedding_type": "fourier", "act_fn": "relu"}, "time_embedding_type = 'fourier' does not fit"),
        ({"time_embedding_dim": 32}, "time_embedding_dim = 32 .* needs None or 64"),
        ({"freq_shift": 2}, "freq_shift = 2 .* 0 or 1"),
        ({"mid_block_type": None}, "mid_block_type = None"),
        ({"mid_block_scale_factor": 1.4}, "mid_block_scale_factor = 1.4"),
        ({"downsample_padding": 2}, "downsample_padding = 2"),
        ({"act_fn": "gelu"}, "act_fn = 'gelu' .* 'silu' or 'swish'"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"out_channels": 4}, "out_channels = 4 .* in_channels = 3 or twice as many"),
        ({"norm_num_groups": 5}, "norm_num_groups = 5"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups = 4 .* None or 8"),
        ({"attention_head_dim": 12}, r"attention_head_dim = 12 .* a divisor of each of \[32, 32\]"),
        ({"down_block_types": ("KDownBlock2D", "AttnDownBlock2D")}, "down_block_types = .* among DownBlock2D"),
        ({"up_block_types": ("UpBlock2D", "AttnUpBlock2D")}, "up_block_types = .* same levels as down_block_types"),
        ({"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D")}, "up_block_types = .* to resample like"),
        ({"up_block_types": ("AttnUpBlock2D",)}, "up_block_types = .* a type for each of the 2 levels"),
        ({"upsample_type": "resnet"}, "up_block_types = .* to resample like the way down"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift = 'spatial'"),
        ({"encoder_hid_dim": 8}, "encoder_hid_dim = 8: this is no option of a UNet2DModel"),
    ],
)
def test_an_option_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        unet_from_diffusers(TINY | changes, {})


# What a config.json of another hand, or a damaged one, may have in any place.
ODD = (None, 0, -1, 1, 3, 5, 0.5, 1e400, True, False, "", "conv", [], [0], [None, 16], [16], {}, ["DownBlock2D"] * 2)
# Options that say nothing of a network: the size of its images, and of a table that only learned times have.
SILENT = ("sample_size", "num_train_timesteps")
# Where an option is another's measure, that other may be the one that no longer fits.
MEASURED = {
    "in_channels": "out_channels",
    "block_out_channels": "down_block_types",
    "down_block_types": "up_block_types",
}


@pytest.mark.parametrize("base", [TINY, SCALE_SHIFT], ids=["add", "scale-shift"])
@pytest.mark.parametrize("option", [key for key in inspect.signature(UNet2DModel).parameters if key not in SILENT])
def test_each_option_is_read_as_diffusers_reads_it_or_named(option, base):
    """Without weights: what is lacking then are weights that `UNet2DModel` has, or an option that does not fit."""
    refused = 0
    for value in ODD:
        config = base | {option: value}
        named = f"^({option}|{MEASURED.get(option, option)}) = .* does not fit: our UNet needs"
        with pytest.raises(ValueError, match=f"{named}|^the weights lack") as told:
            unet_from_diffusers(config, {})
        if str(told.value).startswith("the weights lack"):
            unet_from_diffusers(config, UNet2DModel(**config).state_dict())
        else:
            refused += 1
    assert refused > 5, "odd values of every option were read"


PATCHED = {
    "digits": replace(SIZES["digits"], classes=10),
    "colour": replace(SIZES["tiny"], patch=4, image_channels=3),
    "learned-variance": replace(SIZES["tiny"], patch=3, image_channels=2, learned_variance=True),
    "one-pixel": replace(SIZES["tiny"], image_channels=4),
}


@pytest.mark.parametrize("origin", [0, 1])
@pytest.mark.parametrize("config", PATCHED.values(), ids=PATCHED.keys())
def test_a_network_with_patches_says_the_same_of_unshuffled_images_and_comes_back_bit_for_bit(
    config, origin, generator
):
    p, classes = config.patch, config.classes
    ours = randomised(UNet(replace(config, time_origin=origin)))
    options, state = unet_to_diffusers(ours, (8 * p, 4 * p), time_origin=origin)
    assert list(options["sample_size"]) == [8, 4]
    theirs = UNet2DModel(**options).eval()
    theirs.load_state_dict(state)
    x = torch.randn(4, config.image_channels, 8 * p, 4 * p, generator=generator)
    y = torch.tensor([0, 3, 9, 10]) if classes else None
    with torch.no_grad():
        expected = ours(x, T4, y)
        found = theirs(pixel_unshuffle(x, p), T4 - origin, class_labels=y).sample
        torch.testing.assert_close(pixel_shuffle(found, p), expected, rtol=1e-5, atol=1e-5)

    again = unet_from_diffusers(options, state, last_is_no_label=bool(classes), time_origin=origin, patch=p)
    assert again.config == ours.config
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
    assert again.stem.weight.is_contiguous()
    inside = unet_from_diffusers(options, state, last_is_no_label=bool(classes), time_origin=origin)
    with torch.no_grad():
        found = pixel_shuffle(inside(pixel_unshuffle(x, p), T4, y), p)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


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


def test_patches_that_a_network_of_diffusers_has_not_are_named():
    state = randomised(UNet2DModel(**TINY | {"in_channels": 4, "out_channels": 4})).state_dict()
    options = TINY | {"in_channels": 4, "out_channels": 4}
    with pytest.raises(ValueError, match=r"conv_in\.weight looks beyond the patch of its position"):
        unet_from_diffusers(options, state, patch=2)
    with pytest.raises(ValueError, match="in_channels = 4 does not fit: patch = 3 needs a multiple of 9"):
        unet_from_diffusers(options, state, patch=3)
    with pytest.raises(ValueError, match="patch must be a whole number of at least 1, got 0"):
        unet_from_diffusers(options, state, patch=0)
    with pytest.raises(ValueError, match=r"conv_in.weight must have the shape \(16, 4, 3, 3\), got \(16, 4\)"):
        unet_from_diffusers(options, state | {"conv_in.weight": torch.zeros(16, 4)}, patch=2)
    unet_from_diffusers(options, state)


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        (["conv_in.weight"], {}, r"the weights lack conv_in.weight, of shape \(16, 3, 3, 3\)"),
        (["mid_block.attentions.0.to_k.bias"], {}, r"lack mid_block.attentions.0.to_k.bias, of shape \(32,\)"),
        ([], {"conv_out.bias": torch.zeros(4)}, r"conv_out.bias must have the shape \(3,\), got \(4,\)"),
        ([], {"class_embedding.weight": torch.zeros(4, 64)}, "class_embedding.weight has no place in this U-Net"),
    ],
)
def test_a_weight_that_does_not_fit_is_named(drop, add, message):
    state = {key: value for key, value in UNet2DModel(**TINY).state_dict().items() if key not in drop} | add
    with pytest.raises(ValueError, match=message):
        unet_from_diffusers(TINY, state)


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
    x0 = samplers.ddpm(denoiser, schedule, xt, samplers.uniform_times(schedule, 8), generator)
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


@pytest.mark.parametrize(
    ("scheduler", "ours"),
    [
        ({}, schedules.linear()),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, schedules.scaled_linear()),
        ({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}, schedules.cosine(50)),
        ({"rescale_betas_zero_snr": True}, schedules.zero_terminal_snr(schedules.linear())),
    ],
)
def test_a_pipeline_saved_there_is_read_here(scheduler, ours, tmp_path):
    theirs = randomised(UNet2DModel(**TINY))
    DDPMPipeline(theirs, DDPMScheduler(prediction_type="v_prediction", **scheduler)).save_pretrained(tmp_path)
    unet, schedule, prediction = load_pipeline(tmp_path)
    assert prediction == "v"
    assert schedule.T == ours.T
    # Theirs are float32: 6e-8. Rescaled, each is 1 − a quotient of differences that cancel towards T, to 2e-2 at worst.
    torch.testing.assert_close(schedule.beta, ours.beta, rtol=0, atol=6e-8 / 2e-2)
    x = torch.zeros(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(unet(x, T4), theirs(x, K4).sample, rtol=1e-5, atol=1e-5)


def test_another_scheduler_of_the_folder_is_read_too(tmp_path):
    DDPMPipeline(UNet2DModel(**TINY), DDIMScheduler(steps_offset=1, prediction_type="sample")).save_pretrained(tmp_path)
    _, schedule, prediction = load_pipeline(tmp_path)
    assert (schedule.T, prediction) == (1000, "x0")


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


SIXTEEN = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(16))


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(schedules.Flow(), "u"), (schedules.EDM(20.0, 0.7), "F"), (schedules.EDM(), "F")],
)
def test_a_flow_and_edm_saved_here_sample_there_like_ours(schedule, prediction, tmp_path):
    """The pipeline's own loop, from the noise that `start_noise` draws; our `euler` on the same times."""
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
    x0 = samplers.euler(denoise.from_network(again, schedule_again, prediction), schedule_again, xt, times)
    # Both are float32, 6e-8 at each of the few operations of each of the 8 steps.
    torch.testing.assert_close(found, (x0 / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
    assert found.std() > 0.05


@pytest.mark.parametrize(
    ("scheduler", "schedule", "prediction"),
    [
        (FlowMatchEulerDiscreteScheduler(), schedules.Flow(), "u"),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), schedules.Flow(), "u"),
        (FlowMatchEulerDiscreteScheduler(shift_terminal=0.1, use_karras_sigmas=True), schedules.Flow(), "u"),
        (EDMEulerScheduler(), schedules.EDM(), "F"),
        (EDMEulerScheduler(sigma_max=10.0, sigma_data=1.0, prediction_type="v_prediction"), schedules.EDM(10, 1), "F"),
        (EDMDPMSolverMultistepScheduler(solver_order=1, sigma_data=0.7), schedules.EDM(sigma_data=0.7), "F"),
    ],
)
def test_a_flow_and_edm_saved_there_sample_here_like_theirs(scheduler, schedule, prediction, tmp_path):
    theirs = randomised(UNet2DModel(**TINY))
    DDPMPipeline(theirs, scheduler).save_pretrained(tmp_path)
    unet, found, found_prediction = load_pipeline(tmp_path)
    assert found_prediction == prediction
    assert type(found) is type(schedule)
    assert vars(found) == vars(schedule)

    scheduler.set_timesteps(6)
    xt = start = SIXTEEN * found.prior_std
    with torch.no_grad():
        for k in scheduler.timesteps:
            scaled = scheduler.scale_model_input(xt, k) if prediction == "F" else xt
            xt = scheduler.step(theirs(scaled, k).sample, k, xt).prev_sample
    times = scheduler.sigmas.double().clamp(max=found.T).tolist()
    x0 = samplers.euler(denoise.from_network(unet, found, prediction), found, start, times)
    torch.testing.assert_close(x0, xt, rtol=1e-5, atol=1e-5)


def test_a_network_that_counted_from_elsewhere_is_turned_to_a_flow(generator):
    ours = randomised(UNet(replace(SIZES["tiny"], time_origin=3)))
    options, state = unet_to_diffusers(ours, 8, time_origin=0)
    theirs = UNet2DModel(**options).eval()
    theirs.load_state_dict(state)
    x, clock = torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([3.0, 0.25, 500.5, 1000.0])
    with torch.no_grad():
        expected = ours(x, clock)
        torch.testing.assert_close(theirs(x, clock).sample, expected, rtol=0, atol=5e-4)
        torch.testing.assert_close(
            unet_from_diffusers(options, state, time_origin=0)(x, clock), expected, rtol=0, atol=5e-4
        )
    assert (theirs(x, clock - 3).sample - expected).square().mean().sqrt() > 2e-3


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
        samplers.euler(denoise.from_network(network, schedule, prediction), schedule, xt, times)
        assert len(here) == 5
        for (x, t), (their_x, their_t) in zip(here, there, strict=True):
            torch.testing.assert_close(x, their_x, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(t, their_t, rtol=1e-6, atol=1e-6)


def test_a_solver_that_walks_on_a_flow_is_read_as_one(tmp_path):
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0)
    DDPMPipeline(UNet2DModel(**TINY), scheduler).save_pretrained(tmp_path)
    _, schedule, prediction = load_pipeline(tmp_path)
    scheduler.set_timesteps(4)
    for i, sigma in enumerate(scheduler.sigmas[:-1].double()):
        scheduler._step_index = i
        expected = scheduler.convert_model_output(SIXTEEN, sample=SIXTEEN.flip(0))
        found = predictions.to_x0(prediction, SIXTEEN, schedule, SIXTEEN.flip(0), sigma)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, "_class_name = 'ScoreSdeVeScheduler': only schedulers of known"),
        ({"_class_name": None}, "_class_name = None: only schedulers of known schedules are read, DDIMInverse"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            "prediction_type = 'epsilon' does not fit: DPMSolverMultistepScheduler needs flow_prediction on a flow",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "timestep_type = 'continuous' does not fit: EulerDiscreteScheduler needs discrete",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 500},
            "num_train_timesteps = 500 does not fit: FlowMatchEulerDiscreteScheduler needs 1000",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "invert_sigmas": True},
            "invert_sigmas = True does not fit",
        ),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "'sample' does not fit: EDMEulerScheduler"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0}, "sigma_data = 0 does not fit: .* a positive number"),
        ({"_class_name": "EDMEulerScheduler", "sigma_max": "80"}, "sigma_max = '80' does not fit"),
        ({"prediction_type": "flow_prediction"}, "'flow_prediction' does not fit: DDPMScheduler needs one of epsilon"),
        ({"prediction_type": []}, r"prediction_type = \[\] does not fit"),
        ({"trained_betas": "none"}, "scheduler_config.json: DDPMScheduler cannot be made of its options"),
        ({"trained_betas": None, "beta_schedule": "steep"}, "DDPMScheduler cannot be made of its options"),
        ({"trained_betas": None, "beta_start": None}, "DDPMScheduler cannot be made of its options"),
    ],
)
def test_an_option_of_a_scheduler_that_does_not_fit_is_named(options, message, tmp_path):
    save_pipeline(tmp_path, UNet(SIZES["tiny"]), schedules.linear(), "eps", 8)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))
    with pytest.raises(ValueError, match=message):
        load_pipeline(tmp_path)


def test_a_flow_has_no_variance_to_learn(tmp_path):
    DDPMPipeline(UNet2DModel(**TINY | {"out_channels": 6}), FlowMatchHeunDiscreteScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"out_channels = 6 does not fit: Flow\(T=1\) has no variance to learn"):
        load_pipeline(tmp_path)


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


LEARNED = UNet(replace(SIZES["tiny"], learned_variance=True))


@pytest.mark.parametrize(
    ("network", "schedule", "prediction", "message"),
    [
        (MLP(2), schedules.linear(), "eps", "a pipeline of diffusers is made of a UNet, got MLP"),
        (UNet(SIZES["tiny"]), schedules.VP(), "eps", r"steps, such as schedules.cosine\(\), .* got VP\(T=1\)"),
        (
            UNet(SIZES["tiny"]),
            schedules.linear(),
            "score",
            "DDPMScheduler knows no prediction 'score'; train one of eps",
        ),
        (
            UNet(SIZES["tiny"]),
            schedules.Flow(),
            "v",
            "FlowMatchEulerDiscreteScheduler knows no prediction 'v'; .* of u",
        ),
        (UNet(SIZES["tiny"]), schedules.EDM(), "x0", "EDMEulerScheduler knows no prediction 'x0'; train one of F"),
        (LEARNED, schedules.EDM(), "F", "EDMEulerScheduler knows no learned variance"),
        (LEARNED, schedules.Flow(), "u", "FlowMatchEulerDiscreteScheduler knows no learned variance"),
    ],
)
def test_what_has_no_counterpart_is_named_and_nothing_is_written(network, schedule, prediction, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_pipeline(tmp_path, network, schedule, prediction, 8)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no .*scheduler_config.json; give the folder of a pipeline"):
        load_pipeline(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusion-book\[interop\]'"):
        save_pipeline(tmp_path, UNet(SIZES["tiny"]), schedules.linear(), "eps", 8)
    assert list(tmp_path.iterdir()) == []


def test_networks_need_no_diffusers(monkeypatch):
    state = UNet2DModel(**TINY).state_dict()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    unet = unet_from_diffusers(TINY, state)
    assert isinstance(unet.config, UNetConfig)
    unet_to_diffusers(unet)
