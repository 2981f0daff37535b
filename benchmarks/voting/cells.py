"""One cell of the study: a target, an arm, a seed and a number of steps, and the accuracy that comes of it."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from arms import ITERATIVE, RECIPE_OF, UNPRUNED
from prepare import SCHEDULE, training
from settings import Setting
from torch import nn

from mvp_deploy.bank.add import TRAINING_COST
from mvp_deploy.bank.nearest import RUN_MODELS, SHORT_LIST
from mvp_deploy.bank.store import Bank
from mvp_deploy.bank.trial import Trials
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.head import FEW_TIMES, finish, solve_head
from mvp_deploy.pruning.iterative import LongWay, prune_iteratively
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.structure import Cost
from mvp_deploy.tasks import Task
from mvp_deploy.training import TrainConfig, accuracy, fit

Cell = dict[str, Any]
Unpruned = dict[tuple[int, int], tuple[nn.Module, Cell]]  # by seed and steps
SCORED = 8 * 64  # images that importance is measured on
HEAD_IMAGES = 2048  # the most that a head is solved on


@dataclass
class Target:
    """A target task on one bank, and the unpruned models that its cells share."""

    task: Trials
    setting: Setting
    keep: float
    unpruned: Unpruned

    @classmethod
    def of(
        cls,
        task: Task,
        setting: Setting,
        bank: Bank,
        keep: float,
        device: torch.device,
        unpruned: Unpruned,
    ) -> Target:
        return cls(Trials.of(task, bank, device), setting, keep, unpruned)

    def cell(self, arm: str, seed: int, steps: int) -> Cell:
        """One arm's result by one seed.

        before, accuracy: on the held-out part, before and after ``steps``; macs: of all passes but those that only
        measure held-out accuracy; seconds: of everything.
        """
        if arm == UNPRUNED:
            return self._unpruned(seed, steps)[1]
        if arm == ITERATIVE:
            return self._iterative(seed, steps)
        return self._voted(RECIPE_OF[arm], seed, steps)

    def _voted(self, recipe: Recipe, seed: int, steps: int) -> Cell:
        config = replace(self._training(seed, steps), distill=recipe.distill)
        teacher, whole = self._unpruned(seed, steps) if recipe.distill else (None, {"macs": 0, "seconds": 0})
        done = self.task.attempt(recipe, Budget(self.keep, "units"), config, teacher=teacher)
        cost, full = self.task.original.cost(done.decision.plan), self.task.original.cost().macs
        taught = config.batch_size * steps * full if recipe.distill else 0
        macs = self._asked(recipe, cost, full) + self._settled(recipe, config, cost) + _tuned(config, cost)
        if done.decision.own and recipe.criterion == "taylor":
            macs += TRAINING_COST * SCORED * full + self._images(HEAD_IMAGES) * full
        return _cell(
            done.accuracy, done.before, done.seconds + whole["seconds"], macs + taught + whole["macs"], cost
        ) | {"warned": bool(done.decision.warnings)}

    def _asked(self, recipe: Recipe, cost: Cost, full: int) -> int:
        """MACs of finding neighbours: the target's signature, and neighbours' models on its images."""
        if not recipe.asks_neighbours:
            return 0
        known = sum(1 for _ in self.task.bank.entries())
        run = min(known, max(SHORT_LIST, recipe.neighbours or known)) if recipe.nearest_by in RUN_MODELS else 0
        return len(self.task.train) * full + run * (self._images(512) + 256) * cost.macs

    def _settled(self, recipe: Recipe, config: TrainConfig, cost: Cost) -> int:
        """MACs of batch-norm statistics, and of the solved head, before and after fine-tuning."""
        solved = 0
        if recipe.head == "closed-form":
            short = config.steps * config.batch_size <= FEW_TIMES * len(self.task.train)
            solved = (2 if short else 1) * self._images(HEAD_IMAGES)
        return ((2 * 1024 if recipe.norms != "trained" else 0) + solved) * cost.macs

    def _images(self, most: int) -> int:
        return min(len(self.task.train), most)

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
            self.unpruned[seed, steps] = (model.eval(), cell | self._finished(model, config))
        return self.unpruned[seed, steps]

    def _iterative(self, seed: int, steps: int) -> Cell:
        whole, first = self._unpruned(seed, steps)
        begun, config = time.perf_counter(), self._training(seed, steps)
        original, train, test = self.task.original, self.task.train, self.task.test
        how = LongWay(Budget(self.keep, "units"), replace(SCHEDULE, steps=steps), config)
        result = prune_iteratively(original, whole.state_dict(), train, test, how)
        sizes = [original.cost().macs, *(entry.macs for entry in result.rounds)]
        tuned = TRAINING_COST * config.batch_size * steps * sum(sizes[1:])
        scored = TRAINING_COST * SCORED * sum(sizes[:-1])
        last, seconds = result.rounds[-1], first["seconds"] + time.perf_counter() - begun
        cost = original.cost(result.plan)
        cell = _cell(last.accuracy, last.accuracy_cut, seconds, first["macs"] + tuned + scored, cost)
        return cell | self._finished(result.model, config)

    def _finished(self, model: nn.Module, config: TrainConfig) -> Cell:
        """finished: the accuracy of a reference, were it finished as recipes' models are."""
        end = copy.deepcopy(model)
        finish(end, self.task.original.classifier, self.task.train, config)
        return {"finished": accuracy(end, self.task.test)}

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
