"""One cell of the study: a target, an arm, a seed and a number of steps, and the accuracy that comes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from arms import ITERATIVE, RECIPE_OF, UNPRUNED
from prepare import SCHEDULE, images, training
from settings import Setting
from torch import nn

from mvp_deploy.bank.add import TRAINING_COST
from mvp_deploy.bank.nearest import neighbours
from mvp_deploy.bank.signature import Signature, sign
from mvp_deploy.bank.store import Bank
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.iterative import prune_iteratively
from mvp_deploy.pruning.mvp import decide, own_importance, start
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.tasks import Images, Task
from mvp_deploy.training import accuracy, fit

Cell = dict[str, Any]


@dataclass
class Target:
    """A target task on one bank, with what its cells share: data, signature, importance, unpruned models."""

    task: Task
    setting: Setting
    bank: Bank
    keep: float
    original: Original
    train: Images
    test: Images
    signature: Signature
    importance: dict[tuple[str, int], Scores] = field(default_factory=dict)
    unpruned: dict[tuple[int, int], tuple[nn.Module, Cell]] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, setting: Setting, bank: Bank, keep: float, device: torch.device) -> Target:
        state = bank.state()
        train, test = images(bank.backbone, task, device)
        original = Original.create(bank.backbone, state, len(task.classes), device=device)
        signature = sign(bank.backbone, state, train, len(task.classes), device)
        return cls(task, setting, bank, keep, original, train, test, signature)

    def cell(self, arm: str, seed: int, steps: int) -> Cell:
        """accuracy: on the held-out part after ``steps``; macs: of all training; seconds: of everything."""
        if arm == UNPRUNED:
            return self._unpruned(seed, steps)[1]
        if arm == ITERATIVE:
            return self._iterative(seed, steps)
        return self._voted(RECIPE_OF[arm], seed, steps)

    def _voted(self, recipe: Recipe, seed: int, steps: int) -> Cell:
        begun = time.perf_counter()
        found = neighbours(
            self.bank, self.signature, recipe, self.original, self.train, data=self.task.fingerprint, seed=seed
        )
        own = self._importance(recipe.criterion, seed) if recipe.own > 0 or recipe.scope == "global" else None
        decision = decide(
            self.original, self.train, found.voters, recipe, Budget(self.keep),
            too_distant=found.too_distant, importance=own, seed=seed,
        )  # fmt: skip
        model = start(self.original, self.train, decision, recipe, seed=seed)
        before = accuracy(model, self.test)
        config = replace(training(self.bank.backbone, self.setting, steps=max(1, steps), seed=seed), distill=recipe.distill)
        teacher = self._unpruned(seed, steps)[0] if recipe.distill else None
        if steps:
            fit(model, self.train, config, teacher=teacher)
        cost = self.original.cost(decision.plan)
        full = self.original.cost().macs
        macs = TRAINING_COST * config.batch_size * steps * cost.macs
        if own is not None and recipe.criterion == "taylor":
            macs += TRAINING_COST * 8 * 64 * full  # importance.score's batches
        if recipe.distill:
            macs += self._unpruned(seed, steps)[1]["macs"] + config.batch_size * steps * full
        return {
            "accuracy": accuracy(model, self.test),
            "before": before,
            "seconds": time.perf_counter() - begun,
            "macs": macs,
            "params": cost.params,
            "model_macs": cost.macs,
            "warned": bool(decision.warnings),
        }

    def _importance(self, criterion: str, seed: int) -> Scores:
        key = (criterion, seed)
        if key not in self.importance:
            self.importance[key] = own_importance(self.original, self.train, criterion, seed=seed)
        return self.importance[key]

    def _unpruned(self, seed: int, steps: int) -> tuple[nn.Module, Cell]:
        if (seed, steps) not in self.unpruned:
            begun = time.perf_counter()
            model = self.original.copy()
            solve_head(model, self.original.classifier, self.train)
            before = accuracy(model, self.test)
            config = training(self.bank.backbone, self.setting, steps=max(1, steps), seed=seed)
            if steps:
                fit(model, self.train, config)
            cost = self.original.cost()
            cell = {
                "accuracy": accuracy(model, self.test),
                "before": before,
                "seconds": time.perf_counter() - begun,
                "macs": TRAINING_COST * config.batch_size * steps * cost.macs,
                "params": cost.params,
                "model_macs": cost.macs,
            }
            self.unpruned[seed, steps] = (model.eval(), cell)
        return self.unpruned[seed, steps]

    def _iterative(self, seed: int, steps: int) -> Cell:
        whole, first = self._unpruned(seed, steps)
        begun = time.perf_counter()
        config = training(self.bank.backbone, self.setting, seed=seed)
        result = prune_iteratively(
            self.original, whole.state_dict(), self.train, self.test, Budget(self.keep),
            replace(SCHEDULE, steps=steps), config,
        )  # fmt: skip
        cost = self.original.cost(result.plan)
        tuned = sum(TRAINING_COST * config.batch_size * entry.steps * entry.macs for entry in result.rounds)
        scored = TRAINING_COST * SCHEDULE.batches * 64 * sum(entry.macs for entry in result.rounds)  # an upper bound's half
        return {
            "accuracy": result.rounds[-1].accuracy,
            "before": result.rounds[-1].accuracy_cut,
            "seconds": first["seconds"] + time.perf_counter() - begun,
            "macs": first["macs"] + tuned + scored,
            "params": cost.params,
            "model_macs": cost.macs,
        }
