"""Adding a task to a bank: the long way, from its images to its entry."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Protocol

import torch

from mvp_deploy import __version__
from mvp_deploy.bank.new import NewTask
from mvp_deploy.bank.store import Bank, Entry, Record
from mvp_deploy.bank.unpruned import digest, train_unpruned
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.base.workspaces import remove_workspaces, workspaces
from mvp_deploy.pruning.budget import Budget, counts_for, uniform, units_kept
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.iterative import LongWay, prune_iteratively
from mvp_deploy.pruning.knapsack import Cost
from mvp_deploy.pruning.original import check_exact
from mvp_deploy.pruning.yardstick import Yardstick, measurable
from mvp_deploy.structure import Structure
from mvp_deploy.tasks import Task

TRAINING_COST = 3  # forward and backward passes cost about three forward passes


class Costing(Protocol):
    """What a budget is of, where that is neither units nor MACs nor parameters."""

    @property
    def key(self) -> str:
        """Of what it goes by."""

    def of(self, structure: Structure) -> Cost:
        """Of a backbone."""

    def require_reachable(self, structure: Structure, budget: Budget) -> None:
        """Raise MvpError if no cut of the backbone meets the budget."""


def add_task(
    bank: Bank,
    task: Task,
    how: LongWay,
    *,
    device: torch.device,
    replace: bool = False,
    cost: Costing | None = None,
    reporter: Reporter,
) -> Entry:
    """Train the unpruned model on the task, prune it iteratively, store the result.

    A killed call goes on where it stopped when called again with the same arguments; what it stored already is not
    made again.

    Raises:
        MvpError: the task is stored already, made otherwise (unless ``replace``), another process is adding it, or the
            pruned model is not exact.
    """
    config = how.training
    for note in task.notes:
        reporter.warn(note)
    settings: dict[str, Any] = {
        "budget": asdict(how.budget),
        "schedule": asdict(how.schedule),
        "training": asdict(config),
        "data": task.fingerprint,
        "versions": versions(),
    }
    if cost is not None:
        settings["cost"] = cost.key
    with bank.alone(task.name) as folder:
        if not replace and (known := _stored(bank, task.name, settings)):
            remove_workspaces(folder)  # of a call that was killed after it had stored the task
            reporter.say(f"{task.name} is in {bank.folder} already, made from the same images by the same settings")
            return known
        bank.require_free(task.name, replace=replace)
        (work,) = workspaces(folder, digest(settings))
        new = NewTask.of(task, bank, device, config.seed)
        original, train, test = new.original, new.train, new.test
        for doubt in Yardstick(original, train).doubts if measurable(original) else ():
            reporter.warn(f"{task.name}: {doubt}")
        counted = None if cost is None else cost.of(original.structure)
        if cost is not None:  # a hopeless budget is refused at once
            cost.require_reachable(original.structure, how.budget)
        else:
            counts_for(original.structure, how.budget, uniform(original.structure))
        whole = train_unpruned(new, config, work / "unpruned.safetensors", inputs=settings, reporter=reporter)
        scores = score("taylor", original.structure, whole.model, original.full, train, seed=config.seed)
        start = whole.model.state_dict()
        result = prune_iteratively(original, start, train, test, how, counted=counted, work=work, reporter=reporter)
        error = check_exact(original, result.plan, result.model, test)
        if original.structure.inexact:
            reporter.warn(f"units were removed inexactly: the model differs from the silenced one by {error:.1e}")
        full, small = original.cost(), original.cost(result.plan)
        last = result.rounds[-1]
        steps = [(whole.done.steps, full.macs)] + [(r.steps, r.macs) for r in result.rounds]
        record = Record(
            name=task.name,
            classes=task.classes,
            data=task.fingerprint,
            plan=result.plan,
            weights=result.model.state_dict(),
            scores=scores,
            signature=new.signature,
            metrics={
                "accuracy": last.accuracy,
                "unpruned_accuracy": whole.accuracy,
                "units": units_kept(original.structure, result.plan),
                "params": small.params,
                "macs": small.macs,
                "unpruned_params": full.params,
                "unpruned_macs": full.macs,
            },
            cost={
                "steps": sum(n for n, _ in steps),
                "seconds": whole.done.seconds + sum(r.seconds for r in result.rounds),
                "macs": TRAINING_COST * config.batch_size * sum(n * macs for n, macs in steps),
            },
            details=settings | {"source": task.source, "rounds": [asdict(r) for r in result.rounds]},
        )
        return bank.add(record, replace=replace)


def _stored(bank: Bank, name: str, settings: Mapping[str, Any]) -> Entry | None:
    """The stored task of that name, where it was made by these settings; versions may differ."""
    if not bank.path(name).exists():
        return None
    entry = bank.entry(name)
    asked = ("budget", "schedule", "training", "data", "cost")
    same = all(entry.details.get(key) == settings.get(key) for key in asked)
    return entry if same else None


def versions() -> dict[str, str]:
    """What a result was made with."""
    return {
        "mvp_deploy": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": version("timm"),
    }
