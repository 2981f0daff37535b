"""One way to import timm, with a cure for the torchvision that pip often brings to CPU machines."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from mvp_deploy.base.errors import EnvironmentMissing

_stubs: list[Any] = []  # a torch.library.Library takes its definitions back when it is collected


def timm() -> ModuleType:
    """Import and return timm.

    timm needs torchvision only for image transforms, yet a torchvision built for another variant of torch
    (CUDA against CPU, say) fails on import with «operator torchvision::nms does not exist», since its own
    compiled operators did not load. Only after exactly that failure, the two operators its Python code
    mentions are declared here, without an implementation, and timm is imported again.

    Raises:
        MvpError: (ENVIRONMENT) timm is not installed or cannot be imported.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    except ImportError as error:
        cure = f"timm cannot be imported ({error}): pip install timm"
        raise EnvironmentMissing(cure) from error
    for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]  # imported halfway
    _declare_torchvision_operators()
    return importlib.import_module("timm")


def _declare_torchvision_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _stubs.append(library)
