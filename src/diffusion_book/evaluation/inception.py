"""FID proper, through the package torch-fidelity (the extra `fid`), which downloads its weights. Chapter 12."""

import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_book.data import Images
from diffusion_book.data.images import to_uint8
from diffusion_book.evaluation.features import Extractor, from_module
from diffusion_book.evaluation.frechet import frechet_distance, moments
from diffusion_book.evaluation.naming import FID_SAMPLES, FULL, INCEPTION, called, is_full
from diffusion_book.evaluation.reference import reference_moments


def inception(network: nn.Module | None = None, device: torch.device | str = "cpu") -> Extractor:
    """The 2,048 features of the Inception network that FID means, with that graph's own resize to 299 × 299.

    Args:
        network: a module of torch-fidelity's interface, uint8 [B, 3, H, W] → (features [B, D],), in its place; what is
            measured with it is named after the stand-in, and is no FID.

    Raises:
        ImportError: torch-fidelity is not installed.
        ConnectionError: its weights are not here and could not be downloaded.
    """
    if network is not None:
        network = network.to(device)
        dim = network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=device))[0].shape[1]
        return _extractor(network, f"stand-in {type(network).__name__}", dim, kind="other")
    return _extractor(_original().to(device), INCEPTION, 2048, kind="inception")


def _extractor(network: nn.Module, name: str, dim: int, kind: Any) -> Extractor:
    found = from_module(network, name, dim, lambda net, x: net(to_uint8(x))[0], kind=kind)
    return replace(found, preprocessing="rounded to 8 bits, resized within the network")


def _original() -> nn.Module:
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ImportError("FID needs the package torch-fidelity: pip install 'diffusion-book[fid]'")
    from diffusion_book._torchvision import torchvision

    assert torchvision  # torch-fidelity imports it, and beside a CPU build of torch it has to be mended first
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    try:
        if path.parts[0] == "~":  # it was left there, and would be a folder of that name
            raise OSError("there is no home directory, and $TORCH_HOME names none")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # The beginning of the file's SHA-256 ends its name.
            prefix = path.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError) as error:  # no network, or not the file that the name promises
        raise ConnectionError(
            f"Inception's weights could not be downloaded ({error}); put {URL_INCEPTION_V3} at {path}, or measure "
            "digits with the library's own classifier (FCD-MNIST), which needs no network"
        ) from error
    original: nn.Module = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(path))
    return original


def fid(
    samples: Tensor | Iterable[Tensor],
    reference: Images,
    extractor: Extractor,
    folder: Path | str | None = None,
    progress: bool = False,
) -> float:
    """FID, and nothing else: Inception's features, 50,000 samples, the whole training set as reference.

    Args:
        samples: [50000, 3, H, W] in [−1, 1], or batches of them.
        reference: the training set, in colour. extractor: from `inception()`.
        folder: where the reference's statistics are kept, see `reference_moments`.

    Raises:
        ValueError: another number of samples, another extractor, only a part of the training set as reference, or
            images without colour; the message says what the number would be called.
    """
    name, value = frechet_inception_distance(samples, reference, extractor, folder, progress)
    if name != "FID":
        raise ValueError(
            f"that is not a FID but {name} = {value:.4g}: FID has {FID_SAMPLES:,} samples and Inception's own "
            "features; use frechet_inception_distance, and print the name that it gives"
        )
    return value


def frechet_inception_distance(
    samples: Tensor | Iterable[Tensor],
    reference: Images,
    extractor: Extractor,
    folder: Path | str | None = None,
    progress: bool = False,
) -> tuple[str, float]:
    """The same for any number of samples → (what it may be called, the distance): ("FID-10k", 12.3).

    Raises:
        ValueError: the reference is not a whole training set, or has no colour.

    Source: Heusel et al. 2017.
    """
    if reference.x.shape[1] != 3:
        raise ValueError(
            f"{reference.name} has images without colour, and Inception knows photographs; for digits take FCD-MNIST"
        )
    if not is_full(reference.name, len(reference)):
        whole = FULL.get(reference.name)
        expected = f"all {whole:,} images of it" if whole else f"a whole training set: {', '.join(FULL)}, or a folder"
        raise ValueError(f"the reference must be {expected}, got {len(reference):,} of {reference.name}")
    ours = moments(extractor, samples, progress=progress, bright=float(reference.x.min()) >= 0)
    theirs = reference_moments(extractor, reference, folder, progress)
    return called(extractor, reference.name, ours.n, len(reference)), frechet_distance(ours, theirs)
