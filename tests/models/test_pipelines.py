"""Pipelines of `diffusers` as models of ours, against the pipelines themselves: step by step the same latents."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor

from _support.networks import randomised
from _support.stable_diffusion import LENGTH, PAIRS, VAE, scheduler_options, stable_diffusion
from diffusion_book import models, samplers, schedules
from diffusion_book.interop import save_pipeline
from diffusion_book.interop.diffusers.tokenizer import load_tokenizer
from diffusion_book.nn import SIZES, UNet

PROMPTS = ["a small red cat", "two blue apples, on yellow"]
W = 3.0


@pytest.fixture(scope="module", params=[1, 2], ids=["sd1", "sd2"])
def both(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A pipeline, and its folder."""
    pipeline = stable_diffusion(request.param)
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(folder)
    return pipeline, folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Stable Diffusion 1 in small."""
    folder = tmp_path_factory.mktemp("pipeline")
    stable_diffusion(1).save_pretrained(folder)
    return folder


def theirs(pipeline: Any, latents: Tensor, steps: int, negative: str | None = None) -> tuple[list[Tensor], Tensor]:
    """The latents of each step of its own loop, and its pictures, in [0, 1]."""
    seen: list[Tensor] = []

    def note(_: Any, step: int, k: int, told: dict) -> dict:
        seen.append(told["latents"].clone())
        return told

    images = pipeline(
        PROMPTS,
        negative_prompt=None if negative is None else [negative] * len(PROMPTS),
        latents=latents,
        num_inference_steps=steps,
        guidance_scale=W,
        callback_on_step_end=note,
        output_type="pt",
    ).images
    return seen, images


def ddim(options: dict[str, Any]) -> Any:
    """Their DDIM, whose last step takes away all noise; as the files say it, it would leave that of the first step."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**options, clip_sample=False, set_alpha_to_one=True)


def check_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """In single precision: x̂0 = (x_t − b ε̂)/a magnifies by up to 1/a_T = 15 what a network rounds, and steps add up."""
    assert len(found) == len(expected)
    for mine, other in zip(found, expected):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("solver", ["ddim", "dpm_solver"])
def test_the_latents_of_every_step_are_those_of_the_pipeline(solver, both, generator):
    from diffusers import DPMSolverMultistepScheduler

    pipeline, folder = both
    options = scheduler_options(1 if "eps" in pipeline.scheduler.config.prediction_type else 2)
    if solver == "ddim":
        pipeline.scheduler = ddim(options)
    else:
        pipeline.scheduler = DPMSolverMultistepScheduler(**options, timestep_spacing="leading")
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    expected, pictures = theirs(pipeline, latents, steps=6)

    model = models.load(folder)
    times = [int(k) + 1 for k in pipeline.scheduler.timesteps] + [0]
    found: list[Tensor] = []
    denoiser = model.denoiser(model.conditioner.conditions(PROMPTS, 2), W)
    x0 = samplers.by_name(solver)(denoiser, model.schedule, latents, times, callback=lambda step: found.append(step.xs))
    check_same(found, expected)
    torch.testing.assert_close((model.codec.decode(x0) + 1) / 2, pictures, rtol=0, atol=1e-3)
    assert pictures.std() > 0.05


def test_a_negative_text_is_what_guidance_leads_away_from(folder, generator):
    pipeline, model = stable_diffusion(1), models.load(folder)
    pipeline.scheduler = ddim(scheduler_options(1))
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    expected, _ = theirs(pipeline, latents, 3, negative="a large dog")
    model = replace(model, conditioner=replace(model.conditioner, negative="a large dog"))
    times = [int(k) + 1 for k in pipeline.scheduler.timesteps] + [0]
    denoiser = model.denoiser(model.conditioner.conditions(PROMPTS, 2), W)
    x0 = samplers.ddim(denoiser, model.schedule, latents, times)
    check_same([x0], expected[-1:])


def test_a_pipeline_draws_by_the_name_of_its_folder(folder):
    """The same seed is the same picture, and what is drawn is the sampler's on its grid, decoded."""
    drawn = models.draw(folder, PROMPTS, range(4), guidance=W, steps=4, sampler="ddim")
    assert drawn.shape == (4, 3, 32, 32)
    assert drawn.abs().max() <= 1
    model = models.load(str(folder))
    torch.testing.assert_close(models.draw(model, PROMPTS[0], [2], guidance=W, steps=4, sampler="ddim"), drawn[2:3])
    x_T = samplers.start_noise((1, 4, 16, 16), samplers.seeded([1]), schedule=model.schedule)
    denoiser = model.denoiser(model.conditioner.conditions(PROMPTS[1], 1), W)
    times = samplers.by_name("ddim").grid(model.schedule, 4)
    x0 = samplers.ddim(denoiser, model.schedule, x_T, times)
    torch.testing.assert_close(model.codec.decode(x0), drawn[1:2], rtol=1e-4, atol=1e-4)
    anything = models.draw(model, None, [2], steps=4, sampler="ddim")
    torch.testing.assert_close(anything, models.draw(model, "", [2], steps=4, sampler="ddim"))
    assert models.load(folder, size=48).shape == (3, 48, 48)
    assert not any(weight.requires_grad for weight in model.network.parameters())


def test_texts_are_read_as_their_tokenizer_and_encoder_read_them(both):
    pipeline, folder = both
    conditioner = models.load(folder).conditioner
    texts = [*PROMPTS, "", "  A CAT isn't 12 dogs!", "a small red cat left of two large yellow apples, on blue"]
    tokens = pipeline.tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        expected = pipeline.text_encoder(tokens).last_hidden_state
    with pytest.warns(UserWarning, match="it is cut before"):
        found = conditioner.conditions(texts, 5)["context"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(conditioner.nothing["context"], expected[2], rtol=1e-5, atol=1e-5)


def test_a_tokenizer_in_two_files_is_the_same(folder, tmp_path):
    """As all folders have them that are older than version 5 of transformers."""
    pairs, padding = load_tokenizer(folder / "tokenizer")
    assert pairs == PAIRS
    assert padding == PAIRS.end
    lines = ["#version: 0.2", *(" ".join(pair) for pair in PAIRS.merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", "utf8")
    vocabulary = {piece: number for number, piece in enumerate(PAIRS.pieces)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), "utf8")
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": {"content": "!"}}', "utf8")
    assert load_tokenizer(tmp_path) == (PAIRS, 0)

    vocabulary["a</w>"], vocabulary["b</w>"] = vocabulary["b</w>"], vocabulary["a</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), "utf8")
    with pytest.raises(ValueError, match=r"vocab.json calls the piece 'a</w>' number \d+, and CLIP would call it \d+"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}", "utf8")
    with pytest.raises(ValueError, match=r"vocab.json numbers 0 pieces, and its merges make \d+"):
        load_tokenizer(tmp_path)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder of its own, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf8")), **changes}), "utf8")


def test_a_tokenizer_without_an_encoder_is_told(copy):
    shutil.rmtree(copy / "text_encoder")
    with pytest.raises(ValueError, match=r"there is no .*text_encoder/config.json; give the folder of a pipeline"):
        models.load(copy)


@pytest.mark.parametrize("part", ["unet", "scheduler", "tokenizer"])
def test_a_part_that_lacks_is_named(part, copy):
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=rf"there is no .*copy/{part}/"):
        models.load(copy)


def test_weights_of_another_configuration_are_named_by_the_first(copy):
    edit(copy / "unet" / "config.json", cross_attention_dim=16)
    with pytest.raises(ValueError, match=r"attn2.to_k.weight must have the shape \(16, 16\), got \(16, 12\)"):
        models.load(copy)


def test_parts_that_do_not_fit_each_other_are_named(copy):
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    small = {"intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8}
    V = len(PAIRS.pieces)
    for options, message in (
        ({"vocab_size": V, "eos_token_id": V - 1, "hidden_size": 8}, "unet/ reads tokens of 12 features, got 8"),
        ({"vocab_size": 9, "eos_token_id": 8, "hidden_size": 12}, f"text_encoder/ knows 9 pieces, and .* has {V}"),
    ):
        CLIPTextModel(CLIPTextConfig(**small, **options)).save_pretrained(copy / "text_encoder")
        with pytest.raises(ValueError, match=message):
            models.load(copy)
    AutoencoderKL(**VAE | {"latent_channels": 8}).save_pretrained(copy / "vae")
    with pytest.raises(ValueError, match=r"the network denoises latents of 4 channels, and those of .* have 8"):
        models.load(copy)


def test_a_side_that_does_not_divide_is_told(folder):
    with pytest.raises(ValueError, match="size = 30 does not fit this network, which needs a multiple of 16"):
        models.load(folder, size=30)
    with pytest.raises(ValueError, match="image sides must be multiples of 2 for this autoencoder, got 31×32"):
        models.load(folder).codec.encode(torch.zeros(1, 3, 31, 32))


def test_what_is_no_text_is_told(folder):
    model = models.load(folder)
    with pytest.raises(ValueError, match="this model draws captions, one or several"):
        models.draw(model, 7)
    with pytest.raises(ValueError, match="got 3 captions for 2 pictures"):
        models.draw(model, ["a", "b", "c"], range(2))


def test_a_later_kind_of_pipeline_is_told(copy):
    (copy / "text_encoder_2").mkdir()
    with pytest.raises(ValueError, match=r"copy has text_encoder_2/, .* Stable Diffusion 1 and 2 are read"):
        models.load(copy)


def test_a_pipeline_of_pixels_is_a_model_too(tmp_path):
    ours = randomised(UNet(replace(SIZES["tiny"], image_channels=3)))
    save_pipeline(tmp_path, ours, schedules.cosine(20), "v", image_size=8)
    model = models.load(tmp_path)
    assert (model.shape, model.prediction, model.codec) == ((3, 8, 8), "v", models.Pixels())
    assert models.draw(model, None, range(2), steps=3).shape == (2, 3, 8, 8)
    save_pipeline(tmp_path, UNet(replace(SIZES["tiny"], patch=2)), schedules.cosine(20), "v", image_size=8)
    with pytest.raises(ValueError, match="draws 4 channels and has no vae/; read its network with load_pipeline"):
        models.load(tmp_path)


def test_what_cannot_be_fetched_is_told(monkeypatch):
    with pytest.raises(ValueError, match="there is no folder 'nothing here'; give that of a pipeline, or owner/name"):
        models.from_diffusers("nothing here")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"nobody/nothing is no folder here and cannot be fetched from the hub \(\w+"):
        models.from_diffusers("nobody/nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusion-book\[interop\]'"):
        models.from_diffusers("nobody/nothing")
