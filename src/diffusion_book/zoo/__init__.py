"""Weights that were trained once and come with the package: their names, files and recipes.

    models.load("mnist-unet")

loads one. Each has a card that says how it was made; `diffusion-book zoo train NAME` makes it again from its recipe,
and `zoo.making` is what that command runs. Nothing is downloaded. Chapter 12 measures them.
"""

from pathlib import Path

from diffusion_book._names import check_known

__all__ = ["names", "recipe", "recipes", "weights"]

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"
RECIPES = HERE / "recipes"


def names() -> list[str]:
    """The models whose weights are here."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def weights(name: str) -> Path:
    """The file of a model's weights; its card lies beside it.

    Raises:
        ValueError: an unknown name.
    """
    check_known("model", name, names())
    return WEIGHTS / f"{name}.safetensors"


def recipes() -> list[str]:
    """The models that `diffusion-book zoo train` can make."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe(name: str) -> Path:
    """The configuration file from which a model was trained.

    Raises:
        ValueError: an unknown name.
    """
    check_known("recipe", name, recipes())
    return RECIPES / f"{name}.toml"
