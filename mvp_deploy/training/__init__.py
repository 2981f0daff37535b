"""The one fine-tuning loop: its configuration, and its checkpoints. The loop is imported when used: it needs torch."""

from typing import TYPE_CHECKING, Any

from mvp_deploy.training.config import TrainConfig, Training

if TYPE_CHECKING:
    from mvp_deploy.training.loop import Diverged, FitResult, Judge, Objective, Progress, accuracy, fit, learning_rate

__all__ = [
    "Diverged", "FitResult", "Judge", "Objective", "Progress", "TrainConfig", "Training", "accuracy", "fit",
    "learning_rate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mvp_deploy.training import loop

    return getattr(loop, name)
