"""Models that draw: what a person names becomes a model, and a model becomes pictures, in one call each. Chapter 12.

    sevens = models.draw("mnist-unet", 7, range(16))

    model = models.load("runs/pictures")
    guidance = models.Guidance(2, interval=(0.3, 5))
    better = models.draw(model, [0, 1], range(100, 108), sampler="heun", steps=30, guidance=guidance)

A model is a network with all that must be known to draw with it; a network that names classes is none.
"""

from diffusion_book.models.begin import like, trainer_of
from diffusion_book.models.card import Card
from diffusion_book.models.clip import TrainedClip
from diffusion_book.models.codec import Autoencoded, Codec, Pixels
from diffusion_book.models.conditioner import Conditioner, Labels, Prompts, asked_of
from diffusion_book.models.draw import batches, draw
from diffusion_book.models.files import (
    TrainedAutoencoder,
    TrainedClassifier,
    export,
    load,
    load_any,
    load_autoencoder,
    load_classifier,
    load_clip,
    save,
    weights_with_card,
)
from diffusion_book.models.model import Guidance, Model
from diffusion_book.models.pipelines import from_diffusers
from diffusion_book.models.preview import preview_of

__all__ = [
    "Autoencoded",
    "Card",
    "Codec",
    "Conditioner",
    "Guidance",
    "Labels",
    "Model",
    "Pixels",
    "Prompts",
    "TrainedAutoencoder",
    "TrainedClassifier",
    "TrainedClip",
    "asked_of",
    "batches",
    "draw",
    "export",
    "from_diffusers",
    "like",
    "load",
    "load_any",
    "load_autoencoder",
    "load_classifier",
    "load_clip",
    "preview_of",
    "save",
    "trainer_of",
    "weights_with_card",
]
