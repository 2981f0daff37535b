"""`mvp.Bank`: tasks already pruned for one backbone, and what they lend to new ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mvp_deploy import backbones
from mvp_deploy.api.budget import budget_of
from mvp_deploy.api.data import as_task
from mvp_deploy.bank import ladder, store
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.entry import Entry
from mvp_deploy.bank.ladder import Rung
from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter, Silent
from mvp_deploy.pruning.imitation import TUNING
from mvp_deploy.pruning.iterative import Schedule
from mvp_deploy.pruning.original import suited


@dataclass(frozen=True)
class Bank:
    """A bank on disk, as `mvp-deploy bank` makes and reads it.

    Example:
        >>> import mvp_deploy as mvp, tempfile
        >>> bank = mvp.Bank.create(tempfile.mkdtemp() + "/bank", "test_resnet", image_size=32)
        >>> bank.tasks
        ()
    """

    store: store.Bank

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        backbone: str,
        *,
        pretrained: bool = False,
        weights: str | os.PathLike[str] | None = None,
        image_size: int | None = None,
        seed: int = 0,
    ) -> Bank:
        """Start an empty bank for a timm backbone.

        Args:
            backbone: timm's name, or ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER`` of a published timm model.
            pretrained: with timm's pretrained weights. weights: with those of a file. Neither: random, from ``seed``.
            image_size: edge of the input in pixels; the model's own by default.

        Raises:
            MvpError: the folder is not empty, there is no such model, or the weights do not fit it.
        """
        file = None if weights is None else Path(weights)
        made = backbones.create(backbone, pretrained=pretrained, weights=file, image_size=image_size, seed=seed)
        return cls(store.Bank.init(folder, *made))

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bank:
        """Open a bank. Raises MvpError where there is none."""
        return cls(store.Bank.open(folder))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(entry.name for entry in self.store.entries())

    def add(
        self,
        data: Any,
        *,
        macs: float | None = None,
        params: float | None = None,
        keep: float | None = None,
        round_to: int = 8,
        steps: int = 200,
        rounds: int = 5,
        round_steps: int = 100,
        batch_size: int = 64,
        replace_old: bool = False,
        device: torch.device | str = "auto",
        seed: int = 0,
        reporter: Reporter | None = None,
    ) -> Entry:
        """Prune a task the long way (train, then cut and tune in rounds) and store it; see `mvp-deploy bank add`."""
        task = as_task(data)
        if task is None:
            raise InputError("A bank stores tasks: pass a folder, an .npz, a task's name or a Task.")
        config = replace(suited(self.store.backbone), steps=steps, batch_size=batch_size, seed=seed)
        return add_task(
            self.store,
            task,
            budget_of(keep, macs, params, round_to),
            Schedule(rounds, round_steps),
            config,
            device=resolve(str(device)),
            replace=replace_old,
            reporter=reporter or Silent(),
        )

    def build(
        self,
        macs: Sequence[float] = (0.7, 0.55, 0.45, 0.35, 0.25),
        *,
        images: Sequence[str] = (),
        steps: int = TUNING.steps,
        batch_size: int = TUNING.batch_size,
        flip: bool = True,
        round_to: int = 8,
        device: torch.device | str = "auto",
        seed: int = 0,
        reporter: Reporter | None = None,
    ) -> list[Rung]:
        """Make the ladder: models at these budgets, recovered once for all later tasks; see `mvp-deploy bank build`."""
        budgets = [budget_of(None, fraction, None, round_to) for fraction in macs]
        say = reporter or Silent()
        tasks = ladder.tasks_of(self.store, images, say)
        pooled = ladder.pool(tasks, self.store.backbone.preprocessing, resolve(str(device)))
        config = replace(TUNING, steps=steps, batch_size=batch_size, flip=flip, seed=seed)
        return ladder.build(self.store, pooled, budgets, config, reporter=say)
