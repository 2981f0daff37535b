"""`mvp.Bank`: tasks already pruned for one backbone, and what they lend to new ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch

from mvp_deploy import backbones, runs
from mvp_deploy.api.arguments import check, check_as
from mvp_deploy.api.budget import budget_of, target_of
from mvp_deploy.api.data import as_task
from mvp_deploy.api.progress import reporter as told
from mvp_deploy.api.result import Report, Result
from mvp_deploy.bank import ladder, store
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.entry import Entry
from mvp_deploy.bank.pool import pool, tasks_of
from mvp_deploy.bank.rung import Rung
from mvp_deploy.bank.start import start
from mvp_deploy.base.bounds import FRACTION
from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Met
from mvp_deploy.pruning.config import LADDER
from mvp_deploy.pruning.imitation import TUNING
from mvp_deploy.pruning.iterative import LongWay, Schedule
from mvp_deploy.pruning.original import suited
from mvp_deploy.pruning.recipes import recipe_named
from mvp_deploy.structure import analyze
from mvp_deploy.tasks import Task


@dataclass(frozen=True)
class Bank:
    """A bank on disk, as ``mvp-deploy bank`` makes and reads it. Make one with `create`, open one with `open`."""

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
        rotate: Any = None,
        seed: int = 0,
    ) -> Bank:
        """Start an empty bank for a timm backbone.

        Args:
            folder: where; it must be empty or not there yet.
            backbone: timm's name, or ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER`` of a published timm model.
            pretrained: start from timm's pretrained weights.
            weights: or from those of a file, .safetensors or a PyTorch file of plain tensors. Without either they are
                random, drawn from ``seed``: for trying only.
            image_size: edge of the input in pixels; the model's own by default.
            rotate: a folder, an .npz, a task's name, or a task, on whose training images linear streams (MobileNets,
                EfficientNets, transformers) are turned into their principal directions: the same function, which loses
                less where much goes.
            seed: of random weights, and of which images turn the streams.

        Raises:
            InputError: the folder is not empty, there is no such model, or the weights do not fit it.
            EnvironmentMissing: the pretrained weights cannot be fetched.

        Examples:
            >>> import mvp_deploy as mvp
            >>> mvp.Bank.create("new-bank", "test_resnet", image_size=32).tasks
            ()
        """
        check(image_size=image_size, seed=seed)
        file = None if weights is None else Path(weights)
        made = backbones.create(backbone, pretrained=pretrained, weights=file, image_size=image_size, seed=seed)
        turn_by = None if rotate is None else _task(rotate)
        return cls(start(folder, *made, turn_by, seed=seed, reporter=told()))

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bank:
        """Open a bank.

        Args:
            folder: where it lies.

        Raises:
            InputError: there is none, or it is damaged.

        Examples:
            >>> import mvp_deploy as mvp
            >>> mvp.Bank.open(bank_folder).tasks
            ('digits#3,4',)
        """
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
        latency: float | None = None,
        speed_up: float | None = None,
        on: str | os.PathLike[str] | Profile | None = None,
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
        """Prune a task the long way (train, then cut and fine-tune in rounds) and store it, as ``mvp-deploy bank add``.

        A killed call goes on where it stopped when it is called again with the same arguments.

        Args:
            data: a folder, an .npz, a task's name, or a task.
            macs: the fraction of multiply-accumulates that stays, in (0, 1]; this, ``params``, ``keep`` or a time; by
                default half of the multiply-accumulates.
            params: the fraction of parameters that stays.
            keep: the fraction of units that stays, the same of every group.
            latency: or milliseconds, by the prediction of the profile ``on`` alone: nothing is timed after the cuts.
            speed_up: or how many times faster than unpruned, in the same way.
            on: a profile that ``mvp-deploy profile`` wrote, or its file.
            round_to: channels and hidden units stay in multiples of it.
            steps: of the unpruned model's training.
            rounds: cuts, each followed by ``round_steps`` of fine-tuning.
            round_steps: steps after each cut.
            batch_size: images in a step.
            replace_old: replace a stored task of the same name.
            device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device.
            seed: of what is drawn at random.
            reporter: receives messages and progress; by default the one that `mvp_deploy.progress` set.

        Returns:
            The stored task: name, classes, keep plan, metrics.

        Raises:
            InputError: the data cannot be read, the budget cannot be met, the profile is of another backbone, or the
                task is stored already.
            ParityError: the pruned model does not compute what the silenced one does; it is not stored.
            Busy: another process is adding this task.

        Examples:
            >>> import mvp_deploy as mvp
            >>> bank = mvp.Bank.create("bank-to-add-to", "test_resnet", image_size=32)
            >>> entry = bank.add("digits#0,1", macs=0.5, steps=4, rounds=1, round_steps=2)
            >>> bank.tasks
            ('digits#0,1',)
        """
        say = reporter or told()
        timed = target_of(latency, speed_up, on, say, keep, macs, params)
        budget, cost = timed.share(round_to, say) if timed else (budget_of(keep, macs, params, round_to), None)
        task = _task(data)
        config = replace(suited(self.store.backbone), steps=steps, batch_size=batch_size, seed=seed)
        return add_task(
            self.store,
            task,
            LongWay(budget, Schedule(rounds, round_steps), config),
            device=resolve(str(device)),
            replace=replace_old,
            cost=cost,
            reporter=say,
        )

    def prune(
        self,
        data: Any,
        *,
        macs: float | None = None,
        params: float | None = None,
        keep: float | None = None,
        latency: float | None = None,
        speed_up: float | None = None,
        on: str | os.PathLike[str] | Profile | None = None,
        out: str | os.PathLike[str] | None = None,
        recipe: str = "default",
        round_to: int = 8,
        steps: int = 200,
        batch_size: int = 64,
        device: torch.device | str = "auto",
        seed: int = 0,
        reporter: Reporter | None = None,
    ) -> Result:
        """Prune the bank's backbone for a new task: its tasks vote on what stays, and a few steps finish the model.

        This is what ``mvp-deploy prune`` does. The unpruned model is fine-tuned as well, to compare with. A killed call
        goes on where it stopped when it is called again with the same ``out`` and arguments.

        Args:
            data: a folder, an .npz, a task's name, or a task.
            macs: the fraction of multiply-accumulates that stays, in (0, 1]; this, ``params``, ``keep`` or a time; by
                default half of the multiply-accumulates.
            params: the fraction of parameters that stays.
            keep: the fraction of units that stays, the same of every group.
            latency: or milliseconds, as measured on the device, runtime and precision of the profile ``on``; on the
                profile's machine the smaller model is timed, and chosen again where it misses.
            speed_up: or how many times faster than unpruned, in the same way.
            on: a profile that ``mvp-deploy profile`` wrote, or its file.
            out: the RUN folder to write, which `mvp_deploy.export` and ``mvp-deploy export`` take; none by default.
            recipe: how tasks vote: 'default', 'paper', …
            round_to: channels and hidden units stay in multiples of it.
            steps: of each model's fine-tuning.
            batch_size: images in a step.
            device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device.
            seed: of what is drawn at random.
            reporter: receives messages and progress; by default the one that `mvp_deploy.progress` set.

        Raises:
            InputError: the data cannot be read, the budget cannot be met, the profile is of another backbone, there is
                no such recipe, or ``out`` holds something else than a RUN.
            LatencyError: no plan's real model meets the time.
            ParityError: the pruned model does not compute what the silenced one does.
            Busy: another process is writing ``out``.

        Examples:
            >>> import mvp_deploy as mvp
            >>> result = mvp.Bank.open(bank_folder).prune("digits#5,6", macs=0.6, steps=4, out="runs/digits")
            >>> result.classes, result.report.macs <= 0.6 * result.report.full_macs
            (('5', '6'), True)
        """
        say = reporter or told()
        timed = target_of(latency, speed_up, on, say, keep, macs, params)
        budget, meet = timed.meeting(round_to, say) if timed else (budget_of(keep, macs, params, round_to), None)
        task = _task(data)
        config = replace(suited(self.store.backbone), steps=steps, batch_size=batch_size, seed=seed)
        how = runs.Pruning(budget, recipe_named(recipe), config, meet)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory())) / "run" if out is None else Path(out)
            run = runs.prune_task(
                task,
                self.store,
                folder,
                how,
                device=resolve(str(device)),
                reporter=say,
            )
            return _result(run, None if out is None else folder)

    def build(
        self,
        macs: Sequence[float] = LADDER,
        *,
        tasks: Sequence[str] = (),
        images: Sequence[str | os.PathLike[str]] = (),
        steps: int = TUNING.steps,
        batch_size: int = TUNING.batch_size,
        flip: bool = True,
        round_to: int = 8,
        device: torch.device | str = "auto",
        seed: int = 0,
        reporter: Reporter | None = None,
    ) -> list[Rung]:
        """Make the ladder, as ``mvp-deploy bank build``: models at these budgets, recovered once for all later tasks.

        A new task of such a budget then needs a head alone.

        Args:
            macs: fractions of multiply-accumulates that stay, in (0, 1].
            tasks: labelled images besides those of the bank's tasks, which are looked for where they were.
            images: folders of photographs without labels, which join for all but what units are worth.
            steps: of each model's recovery.
            batch_size: images in a step.
            flip: mirror images left to right (not for digits or letters).
            round_to: channels and hidden units stay in multiples of it.
            device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device.
            seed: of what is drawn at random.
            reporter: receives messages and progress; by default the one that `mvp_deploy.progress` set.

        Raises:
            InputError: a budget cannot be met, or images are gone or changed.
            Busy: another process is building this ladder.

        Examples:
            >>> import mvp_deploy as mvp
            >>> rungs = mvp.Bank.open(bank_folder).build(macs=[0.6], steps=2, flip=False)
            >>> [rung.budget.fraction for rung in rungs]
            [0.6]
        """
        check_as(tuple[Annotated[float, FRACTION], ...], "macs", macs)
        budgets = [budget_of(None, fraction, None, round_to) for fraction in macs]
        say = reporter or told()
        known, folders = tasks_of(self.store, tasks, say), [Path(folder) for folder in images]
        pooled = pool(known, folders, self.store.backbone.preprocessing, resolve(str(device)), reporter=say)
        config = replace(TUNING, steps=steps, batch_size=batch_size, flip=flip, seed=seed)
        return ladder.build(self.store, pooled, budgets, config, reporter=say)


def _task(data: Any) -> Task:
    task = as_task(data)
    if task is None:
        raise InputError("A bank's tasks are on disk: pass a folder, an .npz, a task's name or a Task.")
    return task


def _result(run: runs.Run, folder: Path | None) -> Result:
    """The finished run as `mvp_deploy.prune` gives its results."""
    pruned, unpruned = run.pruned(), run.unpruned()
    small, full = run.info["metrics"]["pruned"], run.info["metrics"]["unpruned"]
    size = pruned.backbone.preprocessing.input_size
    met = small["making"].get("latency")
    frozen = analyze(unpruned.model, torch.zeros(2, *size), allow_inexact=pruned.backbone.allow_inexact).frozen_share
    report = Report(
        params=small["params"],
        macs=small["macs"],
        full_params=full["params"],
        full_macs=full["macs"],
        units=small["units"],
        frozen=frozen,
        accuracy=small["accuracy"],
        full_accuracy=full["accuracy"],
        latency=Met(**met) if met else None,
    )
    return Result(pruned.model, unpruned.model, pruned.plan, report, pruned.backbone, pruned.classes, size, folder)
