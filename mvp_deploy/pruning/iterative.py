"""The long way: score, remove a part, fine-tune, repeat; what a bank's tasks are made by."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mvp_deploy.base import tensorfile
from mvp_deploy.base.reporter import Reporter, Silent
from mvp_deploy.pruning import budget as budgets
from mvp_deploy.pruning import knapsack
from mvp_deploy.pruning.config import Budget
from mvp_deploy.pruning.config import Schedule as Schedule
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.knapsack import Cost
from mvp_deploy.pruning.norms import recalibrate_if_better
from mvp_deploy.pruning.original import Original
from mvp_deploy.structure import KeepPlan, gather
from mvp_deploy.structure.plan import PackedMask
from mvp_deploy.tasks import Images
from mvp_deploy.training import TrainConfig, accuracy, fit


@dataclass(frozen=True)
class LongWay:
    """How a task is pruned the long way; training: of the unpruned model, and of each round but for its steps."""

    budget: Budget
    schedule: Schedule
    training: TrainConfig


@dataclass(frozen=True)
class Round:
    """One cut: the fraction aimed at, what was left, held-out accuracy right after it and after fine-tuning."""

    fraction: float
    units: float
    params: int
    macs: int
    accuracy_cut: float
    accuracy: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class Iterated:
    """The pruned model, its plan, and the rounds that led there."""

    model: nn.Module
    plan: KeepPlan
    rounds: tuple[Round, ...]


def prune_iteratively(
    original: Original,
    weights: Mapping[str, Tensor],
    train: Images,
    test: Images,
    how: LongWay,
    *,
    counted: Cost | None = None,
    work: Path | None = None,
    reporter: Reporter | None = None,
) -> Iterated:
    """Prune from ``weights`` (the unpruned model trained on the task, full size) down to the budget.

    The fraction falls geometrically over the rounds. Every round cuts from the original structure, so units keep
    their names. Batch-norm statistics are recomputed at the end if leave-one-out favours it; by then the head is
    tuned too well to gain from being solved again (docs/voting.md). With ``work`` (a folder) a killed call goes on from
    the last finished phase when called again.

    counted: what the budget is a fraction of, where ``budget.of`` does not say it; one threshold for all groups then.
    """
    budget, schedule, config = how.budget, how.schedule, how.training
    say = reporter or Silent()
    state = _State.load(work) or _State(KeepPlan.full(original.structure), dict(weights), (), False)
    while len(state.rounds) < schedule.rounds:
        index = len(state.rounds)
        fraction = budget.fraction ** ((index + 1) / schedule.rounds)
        if not state.cut:
            state = _cut(original, state, train, replace(budget, fraction=fraction), schedule, config.seed, counted)
            state.save(work)
        start = time.perf_counter()
        model = original.pruned(state.plan, state.weights)
        before = accuracy(model, test)
        checkpoint = work / f"round-{index}.checkpoint" if work else None
        with say.progress(f"round {index + 1} of {schedule.rounds}") as step:
            done = fit(model, train, replace(config, steps=schedule.steps), checkpoint=checkpoint, progress=step)
        if index + 1 == schedule.rounds:
            recalibrate_if_better(model, original.classifier, train, seed=config.seed)
        cost = original.cost(state.plan)
        finished = Round(
            fraction,
            budgets.units_kept(original.structure, state.plan),
            cost.params,
            cost.macs,
            before,
            accuracy(model, test),
            done.steps,
            time.perf_counter() - start,
        )
        say.say(
            f"round {index + 1}: {finished.units:.0%} of units, accuracy {before:.1%} after the cut, "
            f"{finished.accuracy:.1%} after {done.steps} steps"
        )
        state = _State(state.plan, model.state_dict(), (*state.rounds, finished), False)
        state.save(work)
        if checkpoint:
            checkpoint.unlink(missing_ok=True)
    return Iterated(original.pruned(state.plan, state.weights).eval(), state.plan, state.rounds)


@dataclass(frozen=True)
class _Header:
    plan: dict[str, PackedMask]
    rounds: tuple[Round, ...]
    cut: bool


@dataclass(frozen=True)
class _State:
    """Where a run stands. cut: the next round's units are already removed, its fine-tuning is not done."""

    plan: KeepPlan
    weights: Mapping[str, Tensor]
    rounds: tuple[Round, ...]
    cut: bool

    def save(self, work: Path | None) -> None:
        if work is None:
            return
        header: dict[str, Any] = {
            "plan": self.plan.to_json(),
            "rounds": [asdict(entry) for entry in self.rounds],
            "cut": self.cut,
        }
        tensorfile.save(work / "rounds.safetensors", header, {"weights": self.weights})

    @classmethod
    def load(cls, work: Path | None) -> _State | None:
        if work is None or not (work / "rounds.safetensors").exists():
            return None
        header, sections = tensorfile.load(work / "rounds.safetensors")
        done = tensorfile.typed(_Header, header, work / "rounds.safetensors")
        return cls(KeepPlan.from_json(header["plan"]), sections["weights"], done.rounds, done.cut)


def _cut(
    original: Original,
    state: _State,
    train: Images,
    budget: Budget,
    schedule: Schedule,
    seed: int,
    counted: Cost | None,
) -> _State:
    """Score the model as it stands and remove the least important units."""
    structure = original.structure
    model = original.pruned(state.plan, state.weights)
    scores = score(
        schedule.criterion, structure, model, state.plan, train, batches=schedule.batches, seed=seed + len(state.rounds)
    )
    if schedule.scope == "global" or counted:
        counts = knapsack.cheapest(structure, budget, scores, cost=counted, within=state.plan)
    else:
        counts = budgets.counts_for(structure, budget, budgets.uniform(structure), within=state.plan)
    plan = budgets.keep_best(structure, scores, counts, within=state.plan, seed=seed)
    weights = gather(structure, original.widened(state.plan, state.weights), plan)
    return _State(plan, weights, state.rounds, True)
