"""Pruning without a bank: a backbone, and the task's own images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from mvp_deploy.backbones import Backbone
from mvp_deploy.bank.store import Bank
from mvp_deploy.base import tensorfile
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.tasks import Task, prepare


@dataclass(frozen=True)
class NoBank(Bank):
    """A backbone that no other task was pruned for. Its ``folder`` does not exist.

    unturned: the fingerprint that it had before its linear streams were turned.
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    unturned: str

    @property
    def origin(self) -> str:
        return self.unturned

    def state(self) -> dict[str, Tensor]:
        return dict(self.weights)

    def kept(self, file: Path) -> NoBank:
        """The same, in the directions that ``file`` has; where it is missing they are put there.

        Directions come out a little otherwise, or the other way round, with another number of threads or another
        processor: units that were counted in some are not those of others.

        Raises:
            MvpError: the file is damaged.
        """
        if file.exists():
            header, sections = tensorfile.load(file)
            return replace(self, backbone=Backbone.from_json(header), weights=sections["weights"])
        tensorfile.save(file, self.backbone.to_json(), {"weights": self.weights})
        return self

    def _files(self) -> list[Path]:
        return []


def alone(task: Task, backbone: Backbone, state: Mapping[str, Tensor], seed: int = 0) -> NoBank:
    """What `prune_task` takes instead of a bank: the backbone, with its trained head if ``state`` has one.

    Its linear streams are turned into their principal directions on the task's training images (`rotation.rotate`).
    """
    shown = prepare(task.train, backbone.preprocessing, memory_limit=0)
    turned, weights = rotate(backbone, state, shown, num_classes=len(task.classes), seed=seed)
    return NoBank(Path(os.devnull, "bank"), turned, weights, backbone.fingerprint)
