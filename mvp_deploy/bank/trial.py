"""Trying recipes on one task as if it were new to the bank."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch

from mvp_deploy.bank.entry import Entry
from mvp_deploy.bank.nearest import Neighbours, neighbours, run_model
from mvp_deploy.bank.new import NewTask
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.making import Made, make
from mvp_deploy.pruning.mvp import Decision, own_importance
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.pruning.tuning import tune_by
from mvp_deploy.tasks import Images
from mvp_deploy.training import TrainConfig, accuracy

T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """What came of a recipe: held-out accuracy right after the cut and after fine-tuning, 0..1, and seconds in all."""

    decision: Decision
    before: float
    accuracy: float
    seconds: float


@dataclass(eq=False)
class Trials(NewTask):
    """A new task, and what its trials share."""

    _known: dict[Hashable, tuple[Any, float]] = field(default_factory=dict)  # what was worked out, and its seconds
    _spared: float = 0.0  # seconds that trials did not take, since others had worked something out

    def make(self, recipe: Recipe, budget: Budget, seed: int = 0) -> Made:
        """The pruned model before fine-tuning, by the neighbours that the recipe names."""
        found = self._asked(recipe, seed)
        return make(
            self.original,
            self.train,
            found.voters,
            recipe,
            budget,
            too_distant=found.too_distant,
            importance=lambda criterion: self._importance(criterion, seed),
            seed=seed,
        )

    def attempt(
        self, recipe: Recipe, budget: Budget, config: TrainConfig, *, teacher: torch.nn.Module | None = None
    ) -> Trial:
        """Prune by the recipe and fine-tune; teacher: the unpruned model, where the recipe distils."""
        begun, self._spared = time.perf_counter(), 0.0
        made = self.make(recipe, budget, config.seed)
        before = accuracy(made.model, self.test)
        tune_by(
            made.recipe,
            made.model,
            self.original.classifier,
            self.train,
            config,
            made_of=made.of_fewer(self.original, config.seed),
            teacher=teacher,
        )
        after = accuracy(made.model, self.test)
        return Trial(made.decision, before, after, time.perf_counter() - begun + self._spared)

    def _asked(self, recipe: Recipe, seed: int) -> Neighbours:
        return neighbours(self, recipe, seed=seed, score=self._run_model)

    def _importance(self, criterion: str, seed: int) -> Scores:
        return self._once((criterion, seed), lambda: own_importance(self.original, self.train, criterion, seed=seed))

    def _run_model(self, kind: str, entry: Entry, original: Original, train: Images) -> float:
        return self._once((kind, entry.name), lambda: run_model(kind, entry, original, train))

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, worked out once; its seconds count for every trial that asks."""
        if key in self._known:
            self._spared += self._known[key][1]
        else:
            begun = time.perf_counter()
            value = make()
            self._known[key] = (value, time.perf_counter() - begun)
        return cast(T, self._known[key][0])
