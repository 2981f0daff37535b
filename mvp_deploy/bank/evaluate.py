"""Does voting help on this bank? Every task is left out in turn and pruned as if it were new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from mvp_deploy.bank.entry import Entry
from mvp_deploy.bank.store import Bank
from mvp_deploy.bank.trial import NewTask
from mvp_deploy.errors import DeployError
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.recipes import RECIPES, Recipe
from mvp_deploy.reporter import Reporter
from mvp_deploy.tasks import load_task
from mvp_deploy.training import TrainConfig

FEWEST = 4  # tasks: with fewer, no interval says anything
NEIGHBOURS = (1, 2, 3, 5, 10, 0)  # how many voters are tried; 0: all
LONGER = (1, 2, 4)  # the target's own importance is also given this many times the steps
RESAMPLES = 10_000


@dataclass(frozen=True)
class Verdict:
    """What leaving every task out in turn says.

    neighbours, recipe: what to use. gain: of voting over own importance at equal steps, in accuracy (0..1), with its
    95 % interval; the number of neighbours is chosen for each task on the others. saved: the steps that own importance
    needs more to come as far; None where four times the steps do not suffice. accuracy: mean of each arm.
    """

    helps: bool
    recipe: str
    neighbours: int
    gain: float
    low: float
    high: float
    steps: int
    saved: int | None
    tasks: int
    accuracy: Mapping[str, float]

    @property
    def sentence(self) -> str:
        low, gain, high = (f"{100 * value:+.1f}" for value in (self.low, self.gain, self.high))
        points = f"{gain} points at {self.steps} steps, {low} to {high}"
        if not self.helps:
            return f"Voting does not help on these {self.tasks} tasks ({points}): use --recipe own."
        asked = f"--recipe {self.recipe} --set neighbours={self.neighbours}"
        far = f"more than {(LONGER[-1] - 1) * self.steps}" if self.saved is None else f"about {self.saved}"
        return f"Voting saves you {far} steps on these {self.tasks} tasks ({points}): use {asked}."

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.sentence}


def evaluate(
    bank: Bank,
    names: Sequence[str],
    steps: int,
    seeds: Sequence[int],
    *,
    recipe: str = "default",
    device: torch.device,
    reporter: Reporter,
) -> Verdict:
    """Try the recipe with several numbers of neighbours, and own importance with several numbers of steps.

    names: tasks of the bank to leave out, their data still where the names say; none: all. Each is pruned to its
    entry's budget by its entry's training, but for ``steps``. Raises DeployError (INPUT) for fewer than four tasks.
    """
    entries = [bank.entry(name) for name in names] if names else list(bank.entries())
    if len(entries) < FEWEST:
        raise DeployError(f"{bank.folder} has {len(entries)} tasks to leave out: add tasks until there are {FEWEST}.")
    arms = _arms(RECIPES[recipe], sum(1 for _ in bank.entries()) - 1, steps)
    table: dict[str, list[float]] = {arm: [] for arm in arms}
    with reporter.progress("left out") as step:
        for done, entry in enumerate(entries, 1):
            for arm, values in _left_out(bank, entry, arms, seeds, device).items():
                table[arm].append(values)
            step(done, len(entries), None)
    return judge({arm: np.array(values) for arm, values in table.items()}, recipe, steps)


def judge(table: Mapping[str, np.ndarray], recipe: str, steps: int) -> Verdict:
    """The verdict on accuracies float64 [tasks] of the arms 'votes N' (N neighbours, 0: all) and 'own xK' (K times
    the steps)."""
    voting = [arm for arm in table if arm.startswith("votes ")]
    votes = np.stack([table[arm] for arm in voting])
    own = table["own x1"]
    tasks = len(own)
    others = (votes.sum(1, keepdims=True) - votes) / (tasks - 1)
    gains = votes[others.argmax(0), np.arange(tasks)] - own
    low, high = interval(gains)
    best = voting[int(votes.mean(1).argmax())]
    needed = _steps_to(float(own.mean() + gains.mean()), table, steps)
    return Verdict(
        helps=low > 0,
        recipe=recipe if low > 0 else "own",
        neighbours=int(best.split()[1]) if low > 0 else 0,
        gain=float(gains.mean()),
        low=low,
        high=high,
        steps=steps,
        saved=None if needed is None else max(0, round(needed - steps)),
        tasks=tasks,
        accuracy={arm: float(values.mean()) for arm, values in table.items()},
    )


def interval(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean of paired differences: bootstrap over tasks, widened by sqrt(n / (n - 1))."""
    n = len(differences)
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, n, (RESAMPLES, n))].mean(1)
    centre = float(differences.mean())
    low, high = np.quantile(means - centre, (0.025, 0.975)) * np.sqrt(n / max(1, n - 1))
    return centre + float(low), centre + float(high)


def _arms(recipe: Recipe, others: int, steps: int) -> dict[str, tuple[Recipe, int]]:
    counts = [n for n in NEIGHBOURS if n < others]
    voting = {f"votes {n}": (replace(recipe, neighbours=n), steps) for n in counts}
    return voting | {f"own x{times}": (RECIPES["own"], times * steps) for times in LONGER}


def _left_out(
    bank: Bank, entry: Entry, arms: Mapping[str, tuple[Recipe, int]], seeds: Sequence[int], device: torch.device
) -> dict[str, float]:
    """Each arm's accuracy on one task, the mean over the seeds."""
    budget, training = Budget(**entry.details["budget"]), TrainConfig(**entry.details["training"])
    data = load_task(entry.name, seed=training.seed)
    if data.fingerprint != entry.data:  # it would be asked about itself
        raise DeployError(f"The images of {entry.name} are no longer those it was pruned on: add it anew.")
    task = NewTask.of(data, bank, device)

    def tried(recipe: Recipe, steps: int) -> Iterable[float]:
        for seed in seeds:
            yield task.attempt(recipe, budget, replace(training, steps=steps, seed=seed)).accuracy

    return {arm: float(np.mean(list(tried(*choice)))) for arm, choice in arms.items()}


def _steps_to(accuracy: float, table: Mapping[str, np.ndarray], steps: int) -> float | None:
    """The steps at which own importance reaches an accuracy, between those tried; None beyond the most."""
    tried = [times * steps for times in LONGER]
    reached = np.maximum.accumulate([table[f"own x{times}"].mean() for times in LONGER])
    if accuracy > reached[-1]:
        return None
    return float(np.interp(accuracy, reached, tried))
