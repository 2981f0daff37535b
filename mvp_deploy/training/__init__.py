"""The one fine-tuning loop: its configuration, and its checkpoints."""

from mvp_deploy.training.config import TrainConfig
from mvp_deploy.training.loop import Diverged, FitResult, Judge, Objective, Progress, accuracy, fit, learning_rate

__all__ = ["Diverged", "FitResult", "Judge", "Objective", "Progress", "TrainConfig", "accuracy", "fit", "learning_rate"]
