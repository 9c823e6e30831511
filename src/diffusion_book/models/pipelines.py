"""A pipeline of `diffusers` as a model of ours: Stable Diffusion draws on our own modules. Chapter 13.

model = models.load("stable-diffusion")       the folder of a pipeline
model = models.from_diffusers("owner/name")   or a repository of the hub of Hugging Face
models.draw(model, "a small red cat", range(4), guidance=7.5)
"""

from dataclasses import replace
from pathlib import Path

import torch

from diffusion_book.interop import autoencoder_from_diffusers, clip_text_from_transformers, load_pipeline
from diffusion_book.interop.diffusers.folder import pipeline_folder, read_json, read_network
from diffusion_book.interop.diffusers.tokenizer import load_tokenizer
from diffusion_book.models.card import Card
from diffusion_book.models.codec import Autoencoded, Codec, Pixels
from diffusion_book.models.conditioner import Prompts
from diffusion_book.models.model import Model

_NOT_READ = {"image_encoder", "movq", "prior", "text_encoder_2", "transformer", "vqvae"}
"""Parts of other kinds of pipeline; without them what is drawn would be something else."""


def from_diffusers(name: Path | str, device: torch.device | str = "cpu", size: int | None = None) -> Model:
    """The model of a pipeline: of pixels or of latents, and of texts where its network reads them. Chapter 13.

    Stable Diffusion 1 and 2 are such pipelines. How their scheduler steps is left behind, and so is what checks the
    pictures. What guidance leads away from is the empty text, or `conditioner.negative`.

    Args:
        name: the folder of a pipeline, with scheduler/ and unet/, and perhaps vae/, text_encoder/ and tokenizer/; or
            owner/name on the hub of Hugging Face, from where these are fetched.
        size: side of its pictures in pixels; None for that of its training.

    Raises:
        ValueError: a file is not there, or something in one does not fit; or the parts do not fit each other.
        ImportError: a package of the extra `interop` is not installed.

    Source: Rombach et al. 2022, section 3.
    """
    folder = pipeline_folder(name)
    for part in sorted(_NOT_READ & {path.name for path in folder.iterdir()}):
        raise ValueError(
            f"{folder} has {part}/, and no model of ours has such a part; Stable Diffusion 1 and 2 are read"
        )
    unet, schedule, prediction = load_pipeline(folder)
    codec: Codec = Pixels()
    if (folder / "vae").is_dir():
        autoencoder = autoencoder_from_diffusers(*read_network(folder / "vae"))
        codec = Autoencoded(autoencoder.to(device).requires_grad_(False), str(name))
    side, channels = read_json(folder / "unet" / "config.json").get("sample_size"), unet.config.image_channels
    shape = codec.pictures((channels, side, side)) if isinstance(side, int) else None
    if isinstance(codec, Pixels) and channels not in (1, 3):
        raise ValueError(f"{folder} draws {channels} channels and has no vae/; read its network with load_pipeline")
    unet, card, size = unet.to(device).requires_grad_(False), Card(str(name)), size or (shape and shape[1])
    model = Model.of(unet, schedule, prediction, card, size, codec)
    if not unet.config.context_dim:
        return model
    return replace(model, conditioner=_prompts(folder, unet.config.context_dim, device))


def _prompts(folder: Path, context_dim: int, device: torch.device | str) -> Prompts:
    """What makes texts into tokens for a network that reads so many features of each."""
    encoder = clip_text_from_transformers(*read_network(folder / "text_encoder", "model"))
    pairs, padding = load_tokenizer(folder / "tokenizer")
    if encoder.config.width != context_dim:
        raise ValueError(f"{folder}: unet/ reads tokens of {context_dim} features, got {encoder.config.width}")
    if encoder.config.vocabulary != len(pairs.pieces):
        raise ValueError(
            f"{folder}: text_encoder/ knows {encoder.config.vocabulary} pieces, and tokenizer/ has {len(pairs.pieces)}"
        )
    return Prompts(encoder.to(device).requires_grad_(False), pairs, padding)
