"""Let torchvision be imported next to a torch that its compiled operators were not built for.

The wheel of torchvision on PyPI is linked against CUDA. With a CPU-only torch its library of
operators does not load, which torchvision itself survives, but then `import torchvision` dies with
"RuntimeError: operator torchvision::nms does not exist": it registers shape functions for the
operators nms and qnms whether they are there or not
(https://github.com/pytorch/vision/issues/9085). Declaring the two, without any implementation, is
enough for its data sets, transforms and models, which call neither of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache  # the declarations live as long as this object does
def declare_missing() -> Library | None:
    """Declare the operators that torchvision needs at its import; call this before the import.

    Returns None, and declares nothing, where the compiled operators load.
    """
    import torch

    _load_compiled()
    missing = [name for name in OPERATORS if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(name + SIGNATURE)
    return library


def _load_compiled() -> None:
    """Load torchvision's compiled operators, which must be loaded before ours are declared."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in sorted(Path(folder).glob("_C*")):
            # Operators that were built for another torch do not load; they are declared instead.
            with contextlib.suppress(ImportError, OSError):
                torch.ops.load_library(str(library))
