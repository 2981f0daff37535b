"""Where a task's images come from, and how they reach the model.

What needs torch (``prepare``, ``Images``) is imported when first asked for: a device reads `Preprocessing`
without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mvp_deploy.tasks.load import load_again, load_task
from mvp_deploy.tasks.preprocessing import Preprocessing
from mvp_deploy.tasks.task import Split, Task

if TYPE_CHECKING:
    from mvp_deploy.tasks.images import Images, prepare

__all__ = ["Images", "Preprocessing", "Split", "Task", "load_again", "load_task", "prepare"]


def __getattr__(name: str) -> Any:
    if name in ("Images", "prepare"):
        from mvp_deploy.tasks import images

        return getattr(images, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
