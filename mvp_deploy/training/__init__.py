"""The one fine-tuning loop: its configuration, and its checkpoints."""

from mvp_deploy.training.config import TrainConfig
from mvp_deploy.training.loop import FitResult, Progress, accuracy, fit, learning_rate

__all__ = ["FitResult", "Progress", "TrainConfig", "accuracy", "fit", "learning_rate"]
