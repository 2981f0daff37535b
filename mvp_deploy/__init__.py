"""One pretrained image backbone, many small and fast per-task models.

    import mvp_deploy as mvp

    result = mvp.prune(model, loader, macs=0.45)    # a module of yours or timm's, or a timm model's name
    mvp.save(result, "small.safetensors")
    model = mvp.load("small.safetensors")

Names are imported when they are used, so that `import mvp_deploy` takes no time and needs no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mvp_deploy.api.bank import Bank
    from mvp_deploy.api.benchmark import benchmark
    from mvp_deploy.api.bundle import Bundle
    from mvp_deploy.api.export import export
    from mvp_deploy.api.files import load, save
    from mvp_deploy.api.parts import analyze, cut, reconstruct
    from mvp_deploy.api.progress import progress
    from mvp_deploy.api.prune import prune
    from mvp_deploy.api.result import Report, Result
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
    from mvp_deploy.benchmark.compare import Benchmark
    from mvp_deploy.structure import KeepPlan, Structure
    from mvp_deploy.tasks import Preprocessing, Task

_PLACES = {
    "mvp_deploy.api.bank": ("Bank",),
    "mvp_deploy.api.benchmark": ("benchmark",),
    "mvp_deploy.api.bundle": ("Bundle",),
    "mvp_deploy.api.export": ("export",),
    "mvp_deploy.api.files": ("load", "save"),
    "mvp_deploy.api.parts": ("analyze", "cut", "reconstruct"),
    "mvp_deploy.api.progress": ("progress",),
    "mvp_deploy.api.prune": ("prune",),
    "mvp_deploy.api.result": ("Report", "Result"),
    "mvp_deploy.base.errors": ("AccuracyError", "Busy", "EnvironmentMissing", "InputError", "LatencyError", "MvpError",
                               "ParityError", "StructureError"),
    "mvp_deploy.benchmark.compare": ("Benchmark",),
    "mvp_deploy.structure": ("KeepPlan", "Structure"),
    "mvp_deploy.tasks": ("Preprocessing", "Task"),
}  # fmt: skip
_HOME = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "AccuracyError", "Bank", "Benchmark", "Bundle", "Busy", "EnvironmentMissing", "InputError", "KeepPlan",
    "LatencyError", "MvpError", "ParityError", "Preprocessing", "Report", "Result", "Structure", "StructureError",
    "Task", "analyze", "benchmark", "cut", "export", "load", "progress", "prune", "reconstruct", "save",
]  # fmt: skip


if not TYPE_CHECKING:  # or type checkers would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'mvp_deploy' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """Two rooms are called `export` and `benchmark` as well: importing one does not hide the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
