"""Models in the forms in which others, or we ourselves, read them."""

from pathlib import Path

from diffusion_book import zoo
from diffusion_book.cli.cards import versions, write_card
from diffusion_book.cli.models import image_shape
from diffusion_book.nn import UNet


def to_diffusers(model: zoo.Pretrained, folder: Path, size: int | None = None) -> int:
    """Write a folder that `DiffusionPipeline.from_pretrained` loads.

    Returns:
        p, with which `pixel_shuffle(x, p)` makes images of what is drawn there; 1 where they already are.

    Raises:
        ValueError: the model has no counterpart there. ImportError: `diffusers` is not installed.
    """
    from diffusion_book.interop.diffusers import save_pipeline

    if not isinstance(model.network, UNet) or model.schedule is None or model.prediction is None:
        raise ValueError(
            f"diffusers has no counterpart of a {type(model.network).__name__}, only of a UNet; "
            "take --format safetensors for this model"
        )
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give a folder")
    save_pipeline(folder, model.network, model.schedule, model.prediction, image_shape(model, size)[1])
    return model.network.config.patch


def to_safetensors(model: zoo.Pretrained, path: Path) -> None:
    """Write weights in half precision, and what is known of them as a card beside them.

    Raises:
        ValueError: another ending; or a file that came without a card, which already is what is asked for.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors")
    recipe = model.card.get("recipe")
    if recipe is None:
        raise ValueError("this model already is a .safetensors file, and has no card to take along; copy it")
    if model.schedule is None:
        sha256 = zoo.save(path, model.network)
    else:
        sha256 = zoo.save(path, model.network, recipe["schedule"], recipe["T"], model.prediction)
    write_card(path, {"versions": versions(), **model.card, "sha256": sha256})
