"""What is exported: models with their interface, the images that judge them, and what did not pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.base.errors import ExitCode
from mvp_deploy.tasks import Images, Preprocessing
from mvp_deploy.tasks.task import Split


@dataclass(frozen=True)
class Interface:
    """What goes into a bundle's models, and what their outputs mean."""

    classes: tuple[str, ...]
    input_size: tuple[int, int, int]  # channels, height, width
    preprocessing: Preprocessing | None  # from an image file to the input; None: only the model's owner knows

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.input_size)


@dataclass(frozen=True, eq=False)
class Subject:
    """A PyTorch model to export, and what its artefacts must give."""

    name: str  # 'pruned', 'unpruned', or 'model' where it is compared with no other
    model: nn.Module
    interface: Interface
    params: int
    macs: int
    logits: np.ndarray  # float32 [held-out images, classes]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out images, and the numbers of those that are also checked one by one."""

    test: Images
    split: Split | None  # the files ``test`` was prepared from, to name them
    samples: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        labels: np.ndarray = self.test.labels.cpu().numpy()
        return labels

    def right(self, found: np.ndarray) -> np.ndarray:
        """For which images the logits [images, classes] name the right class: bool [images]."""
        right: np.ndarray = found.argmax(1) == self.labels
        return right

    def name(self, number: int) -> str:
        """An image as a user finds it."""
        image = self.split and self.split.images[number]
        return str(image) if isinstance(image, Path) else f"held-out image number {number}"


@dataclass(frozen=True)
class Failed:
    """A file that was asked for and is not in the bundle: it did not pass."""

    model: str
    target: str
    precision: str
    error: str
    code: ExitCode
