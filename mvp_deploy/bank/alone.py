"""Pruning without a bank: a backbone, and the task's own images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mvp_deploy.backbones import Backbone
from mvp_deploy.bank.store import Bank
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.tasks import Task, prepare


@dataclass(frozen=True)
class NoBank(Bank):
    """A backbone that no other task was pruned for. Its ``folder`` does not exist."""

    weights: Mapping[str, Tensor] = field(repr=False)

    def state(self) -> dict[str, Tensor]:
        return dict(self.weights)

    def _files(self) -> list[Path]:
        return []


def alone(task: Task, backbone: Backbone, state: Mapping[str, Tensor], seed: int = 0) -> NoBank:
    """What `prune_task` takes instead of a bank: the backbone, with its trained head if ``state`` has one.

    Its linear streams are turned into their principal directions on the task's training images (`rotation.rotate`).
    """
    shown = prepare(task.train, backbone.preprocessing, memory_limit=0)
    turned, weights = rotate(backbone, state, shown, num_classes=len(task.classes), seed=seed)
    return NoBank(Path(os.devnull, "bank"), turned, weights)
