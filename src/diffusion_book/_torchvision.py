"""Import torchvision, also beside a CPU build of torch.

The registry's torchvision wheel is built for CUDA. Beside a CPU torch its compiled operators do not load, and its
import fails because it registers Python kernels for `nms` and `qnms`, which then do not exist. The book uses only
torchvision's data sets, transforms, utilities and models, none of which needs those two, so they are declared
(not defined) first, and only where they are missing.
"""

import importlib.util

import torch


def _declare_missing_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    _kept.append(library)  # a Library unregisters its operators when it is collected
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_kept: list[torch.library.Library] = []

if importlib.util.find_spec("torchvision") is None:
    raise ImportError("torchvision is needed for this data set: pip install torchvision")
try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    _declare_missing_operators()
    import torchvision

__all__ = ["torchvision"]
