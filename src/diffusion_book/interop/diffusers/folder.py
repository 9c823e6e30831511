"""The folder of a pipeline, or of one of its networks: on this machine, or fetched from the hub of Hugging Face."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffusion_book._files import expanded, once

_FILES = [
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
    "text_encoder/config.json",
]
_FILES += ["text_encoder/model.safetensors"]
_FILES += [
    f"{part}/{file}" for part in ("unet", "vae") for file in ("config.json", "diffusion_pytorch_model.safetensors")
]


def pipeline_folder(name: Path | str) -> Path:
    """A folder on this machine; or else, for owner/name, what is fetched of the hub's repository into its cache.

    Only configurations, the tokenizer and weights as safetensors are fetched, and no checker of what is drawn.

    Raises:
        ValueError: there is no such folder, and the name is none of a repository; or it could not be fetched.
        ImportError: `huggingface_hub` is not installed.
    """
    folder = expanded(name)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)):
        raise ValueError(f"there is no folder {str(name)!r}; give that of a pipeline, or owner/name on the hub")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ImportError("the hub needs the package huggingface_hub: pip install 'diffusion-book[interop]'")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=_FILES))
    except Exception as error:  # of the network, of the disk and of the hub's own
        raise ValueError(
            f"{name} is no folder here and cannot be fetched from the hub ({type(error).__name__}: {error}); where "
            "there is no network, give the folder of a pipeline that was fetched before"
        ) from error


def read_network(folder: Path, stem: str = "diffusion_pytorch_model") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options and the weights in the folder of a network.

    Args:
        stem: of the file of weights; that of half precision is taken where there is no other.

    Raises:
        ValueError: a file is not there, or cannot be read; the message names it.
    """
    config = read_json(folder / "config.json")
    weights, half = folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"
    if not weights.is_file() and half.is_file():
        weights = half
    if not weights.is_file():
        raise ValueError(
            f"there is no {weights}; weights are read from safetensors only, because other files can run code: "
            "convert them with diffusers' save_pretrained(…, safe_serialization=True)"
        )
    try:
        return config, load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged, or no safetensors file ({error}); fetch it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Options by name.

    Raises:
        ValueError: the file is not there, or cannot be read, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}; give the folder of a pipeline that diffusers saved")
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold options by name, got a {type(found).__name__}; fetch it again")
    return found
