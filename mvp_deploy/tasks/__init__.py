"""Where a task's images come from, and how they reach the model.

All but `Preprocessing` is imported when first asked for: a device reads that without torch and without Pillow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mvp_deploy.tasks.preprocessing import Preprocessing

if TYPE_CHECKING:
    from mvp_deploy.tasks.images import Images, prepare
    from mvp_deploy.tasks.load import load_again, load_task
    from mvp_deploy.tasks.task import Split, Task

__all__ = ["Images", "Preprocessing", "Split", "Task", "load_again", "load_task", "prepare"]

_HOMES = {"Images": "images", "Split": "task", "Task": "task", "load_again": "load", "load_task": "load",
          "prepare": "images"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"mvp_deploy.tasks.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
