"""Trying recipes on one task as if it were new to the bank."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from mvp_deploy.bank.nearest import neighbours
from mvp_deploy.bank.signature import Signature, sign
from mvp_deploy.bank.store import Bank
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.mvp import Decision, decide, own_importance, start
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.tasks import Images, Task, prepare
from mvp_deploy.training import TrainConfig, accuracy, fit


@dataclass(frozen=True)
class Trial:
    """What came of a recipe: held-out accuracy right after the cut and after fine-tuning, 0..1, and seconds in all."""

    decision: Decision
    before: float
    accuracy: float
    seconds: float


@dataclass
class NewTask:
    """A task, the bank it is new to (an entry of the same images is never asked), and what its trials share."""

    task: Task
    bank: Bank
    original: Original
    train: Images
    test: Images
    signature: Signature
    _importance: dict[tuple[str, int], Scores] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, bank: Bank, device: torch.device) -> NewTask:
        state = bank.state()
        train, test = (prepare(part, bank.backbone.preprocessing, device) for part in (task.train, task.test))
        original = Original.create(bank.backbone, state, len(task.classes), device=device)
        return cls(task, bank, original, train, test, sign(bank.backbone, state, train, len(task.classes), device))

    def decide(self, recipe: Recipe, budget: Budget, seed: int = 0) -> Decision:
        """Ask the neighbours that the recipe names, and choose the units that stay."""
        found = neighbours(
            self.bank, self.signature, recipe, self.original, self.train, data=self.task.fingerprint, seed=seed
        )
        own = self._known(recipe.criterion, seed)
        return decide(
            self.original,
            self.train,
            found.voters,
            recipe,
            budget,
            too_distant=found.too_distant,
            importance=own,
            seed=seed,
        )

    def attempt(
        self, recipe: Recipe, budget: Budget, config: TrainConfig, *, teacher: torch.nn.Module | None = None
    ) -> Trial:
        """Prune by the recipe and fine-tune; teacher: the unpruned model, where the recipe distils."""
        begun = time.perf_counter()
        decision = self.decide(recipe, budget, config.seed)
        model = start(self.original, self.train, decision, recipe, seed=config.seed)
        before = accuracy(model, self.test)
        fit(model, self.train, config, teacher=teacher)
        return Trial(decision, before, accuracy(model, self.test), time.perf_counter() - begun)

    def _known(self, criterion: str, seed: int) -> Scores:
        key = (criterion, seed)
        if key not in self._importance:
            self._importance[key] = own_importance(self.original, self.train, criterion, seed=seed)
        return self._importance[key]
