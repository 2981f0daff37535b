"""One pretrained image backbone, many small and fast per-task models.

    import mvp_deploy as mvp

    result = mvp.prune(model, loader, macs=0.45)    # a module of yours or timm's, or a timm model's name
    mvp.save(result, "small.safetensors")
    model = mvp.load("small.safetensors")

Names are imported when they are used, so that `import mvp_deploy` takes no time and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mvp_deploy.api.bank import Bank
    from mvp_deploy.api.files import load, save
    from mvp_deploy.api.prune import Report, Result, analyze, cut, prune, reconstruct
    from mvp_deploy.base.errors import (
        AccuracyError,
        Busy,
        EnvironmentMissing,
        InputError,
        LatencyError,
        MvpError,
        ParityError,
        StructureError,
    )
    from mvp_deploy.structure import KeepPlan, Structure

_PLACES = {
    "mvp_deploy.api.bank": ("Bank",),
    "mvp_deploy.api.files": ("load", "save"),
    "mvp_deploy.api.prune": ("Report", "Result", "analyze", "cut", "prune", "reconstruct"),
    "mvp_deploy.base.errors": (
        "AccuracyError",
        "Busy",
        "EnvironmentMissing",
        "InputError",
        "LatencyError",
        "MvpError",
        "ParityError",
        "StructureError",
    ),
    "mvp_deploy.structure": ("KeepPlan", "Structure"),
}
_HOME = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "AccuracyError",
    "Bank",
    "Busy",
    "EnvironmentMissing",
    "InputError",
    "KeepPlan",
    "LatencyError",
    "MvpError",
    "ParityError",
    "Report",
    "Result",
    "Structure",
    "StructureError",
    "analyze",
    "cut",
    "load",
    "prune",
    "reconstruct",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mvp_deploy' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
