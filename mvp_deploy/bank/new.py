"""A task that is new to a bank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from mvp_deploy.bank.signature import Signature, sign
from mvp_deploy.bank.store import Bank
from mvp_deploy.pruning.original import Original
from mvp_deploy.tasks import Images, Task, prepare

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(eq=False)
class NewTask:
    """A task, the bank it is new to (an entry of the same images is never asked), and the model to prune for it.

    train, test: its images on the device, prepared for the backbone.
    """

    task: Task
    bank: Bank
    original: Original
    train: Images
    test: Images

    @classmethod
    def of(cls, task: Task, bank: Bank, device: torch.device, seed: int = 0) -> Self:
        """Prepare the images and build the model; ``seed`` draws its head."""
        train, test = (prepare(part, bank.backbone.preprocessing, device) for part in (task.train, task.test))
        original = Original.create(bank.backbone, bank.state(), len(task.classes), device=device, seed=seed)
        return cls(task, bank, original, train, test)

    @cached_property
    def signature(self) -> Signature:
        classes = len(self.task.classes)
        return sign(self.bank.backbone, self.bank.state(), self.train, classes, self.original.device)
