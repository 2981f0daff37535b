"""One cell of the study: a target, an arm, a seed and a number of steps, and the accuracy that comes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from arms import ITERATIVE, RECIPE_OF, UNPRUNED
from prepare import SCHEDULE, training
from settings import Setting
from torch import nn

from mvp_deploy.bank.add import TRAINING_COST
from mvp_deploy.bank.store import Bank
from mvp_deploy.bank.trial import NewTask
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.iterative import prune_iteratively
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.structure import Cost
from mvp_deploy.tasks import Task
from mvp_deploy.training import TrainConfig, accuracy, fit

Cell = dict[str, Any]
SCORED = 8 * 64  # images that importance is measured on


@dataclass
class Target:
    """A target task on one bank, and the unpruned models that its cells share."""

    task: NewTask
    setting: Setting
    keep: float
    unpruned: dict[tuple[int, int], tuple[nn.Module, Cell]] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, setting: Setting, bank: Bank, keep: float, device: torch.device) -> Target:
        return cls(NewTask.of(task, bank, device), setting, keep)

    def cell(self, arm: str, seed: int, steps: int) -> Cell:
        """accuracy: on the held-out part after ``steps``; macs: of all training; seconds: of everything."""
        if arm == UNPRUNED:
            return self._unpruned(seed, steps)[1]
        if arm == ITERATIVE:
            return self._iterative(seed, steps)
        return self._voted(RECIPE_OF[arm], seed, steps)

    def _voted(self, recipe: Recipe, seed: int, steps: int) -> Cell:
        config = replace(self._training(seed, steps), distill=recipe.distill)
        teacher, whole = self._unpruned(seed, steps) if recipe.distill else (None, {"macs": 0, "seconds": 0})
        done = self.task.attempt(recipe, Budget(self.keep), config, teacher=teacher)
        cost, full = self.task.original.cost(done.decision.plan), self.task.original.cost().macs
        scored = TRAINING_COST * SCORED * full if done.decision.own and recipe.criterion == "taylor" else 0
        taught = config.batch_size * steps * full if recipe.distill else 0
        return _cell(
            done.accuracy,
            done.before,
            done.seconds + whole["seconds"],
            _tuned(config, cost) + scored + taught + whole["macs"],
            cost,
        ) | {"warned": bool(done.decision.warnings)}

    def _unpruned(self, seed: int, steps: int) -> tuple[nn.Module, Cell]:
        if (seed, steps) not in self.unpruned:
            begun, config = time.perf_counter(), self._training(seed, steps)
            original, test = self.task.original, self.task.test
            model = original.copy()
            solve_head(model, original.classifier, self.task.train)
            before = accuracy(model, test)
            fit(model, self.task.train, config)
            seconds = time.perf_counter() - begun
            cost = original.cost()
            cell = _cell(accuracy(model, test), before, seconds, _tuned(config, cost), cost)
            self.unpruned[seed, steps] = (model.eval(), cell)
        return self.unpruned[seed, steps]

    def _iterative(self, seed: int, steps: int) -> Cell:
        whole, first = self._unpruned(seed, steps)
        begun, config = time.perf_counter(), self._training(seed, steps)
        original, train, test = self.task.original, self.task.train, self.task.test
        schedule = replace(SCHEDULE, steps=steps)
        result = prune_iteratively(original, whole.state_dict(), train, test, Budget(self.keep), schedule, config)
        sizes = [original.cost().macs, *(entry.macs for entry in result.rounds)]
        tuned = TRAINING_COST * config.batch_size * steps * sum(sizes[1:])
        scored = TRAINING_COST * SCORED * sum(sizes[:-1])
        last, seconds = result.rounds[-1], first["seconds"] + time.perf_counter() - begun
        cost = original.cost(result.plan)
        return _cell(last.accuracy, last.accuracy_cut, seconds, first["macs"] + tuned + scored, cost)

    def _training(self, seed: int, steps: int) -> TrainConfig:
        return training(self.task.bank.backbone, self.setting, steps=steps, seed=seed)


def _tuned(config: TrainConfig, cost: Cost) -> int:
    return TRAINING_COST * config.batch_size * config.steps * cost.macs


def _cell(accuracy: float, before: float, seconds: float, macs: int, cost: Cost) -> Cell:
    return {
        "accuracy": accuracy,
        "before": before,
        "seconds": seconds,
        "macs": macs,
        "params": cost.params,
        "model_macs": cost.macs,
    }
