"""Does voting help on this bank? Every task is left out in turn and pruned as if it were new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from mvp_deploy.bank.entry import Entry
from mvp_deploy.bank.images import images_of
from mvp_deploy.bank.store import Bank
from mvp_deploy.bank.trial import Trials
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.statistics import Interval, mean_interval
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.recipes import EVEN, RECIPES, Recipe, changed
from mvp_deploy.training import TrainConfig

FEWEST = 4  # tasks: with fewer, no interval says anything
NEIGHBOURS = (1, 3, 5, 10, 20)  # how many voters are tried, besides all; among them what the recipes have
ALL, ALIKE = "neighbours=0", "neighbours=0 weighting=plain"  # arms are named by the recipe's fields that they set
RANDOM = "nearest_by=random"
EVENS = (10.0, 30.0, 100.0, 300.0, 1000.0)  # images at which own and lent importance are tried to count the same
LENT = "untuned even="
FURTHER = 1.5
LONGER = (1, 2, 4)  # the target's own importance is also given this many times the steps


@dataclass(frozen=True)
class Verdict:
    """What leaving every task out in turn says.

    Attributes:
        recipe, settings: what to use.
        gain: accuracy (0..1) of voting minus that of own importance at equal steps, the mean over tasks; of the recipe
            as it is, or with settings that are surely better.
        nearness: accuracy with the nearest neighbours minus that with as many random ones.
        saved: the steps that own importance needs more to come as far; None where four times the steps do not suffice.
        accuracy: mean of each arm.
        even: the images at which own and lent importance count the same in the arm that is the most accurate, untuned;
            None if the recipe lends none.
    """

    helps: bool
    recipe: str
    settings: tuple[str, ...]
    gain: Interval
    nearness: Interval
    steps: int
    saved: int | None
    tasks: int
    accuracy: Mapping[str, float]
    even: float | None = None

    @property
    def sentence(self) -> str:
        points = f"after {self.steps} steps {self.gain.points}"
        if not self.helps:
            return (
                f"Voting does not help on these {self.tasks} tasks ({points}): use --recipe default, which takes votes "
                "only where they win."
            )
        asked = " ".join([f"--recipe {self.recipe}", *(f"--set {setting}" for setting in self.settings)])
        far = f"more than {(LONGER[-1] - 1) * self.steps}" if self.saved is None else f"about {self.saved}"
        better = "better than" if self.nearness.surely_above(0) else "not surely better than"
        return (
            f"Voting saves you {far} steps on these {self.tasks} tasks ({points}): use {asked}. "
            f"The nearest neighbours are {better} random ones ({self.nearness.points})."
        )

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
    """Leave tasks out in turn, and try voting against their own importance.

    The recipe is tried with several numbers of neighbours, nearest and random, and, untuned, with several weights of
    own and lent importance if it has both; own importance is tried with several numbers of steps.

    Args:
        names: Tasks of the bank to leave out; all by default. Each is pruned to its entry's budget by its entry's
            training, but for ``steps``.

    Raises:
        InputError: There are fewer than four tasks, or the recipe asks no neighbours.
    """
    if not RECIPES[recipe].asks_neighbours:
        raise InputError(f"The recipe {recipe} asks no neighbours: name one that does, such as default or paper.")
    damaged: list[str] = []
    everything = list(bank.entries(damaged))
    for sentence in damaged:
        reporter.warn(f"left out: {sentence}")
    entries = [bank.entry(name) for name in names] if names else everything
    if len(entries) < FEWEST:
        raise InputError(f"{bank.folder} has {len(entries)} tasks to leave out: add tasks until there are {FEWEST}.")
    for entry in entries:
        images_of(entry, bank)  # what is not there is said before hours of work
    table: dict[str, list[float]] = {}
    with reporter.progress("left out") as step:
        for done, entry in enumerate(entries, 1):
            arms = _arms(RECIPES[recipe], len(everything) - 1, steps, Budget(**entry.details["budget"]).of)
            for arm, values in _left_out(bank, entry, arms, seeds, device).items():
                table.setdefault(arm, []).append(values)
            step(done, len(entries), None)
    return judge({arm: np.array(values) for arm, values in table.items()}, recipe, steps)


def judge(table: Mapping[str, np.ndarray], recipe: str, steps: int) -> Verdict:
    """The verdict on the arms' accuracies, float64 [tasks].

    Arms of voting are named by the recipe's fields that they set (`RANDOM` among them, which is a control, not a
    choice); 'own xK' is own importance with K times the steps; `LENT` and a number that many images in `Recipe.even`.
    """
    own = table["own x1"]
    usual = f"neighbours={RECIPES[recipe].neighbours}"
    usual = usual if usual in table else ALL  # as many as there are
    chosen = _best([arm for arm in table if arm.startswith("neighbours=")], usual, table)
    gain = mean_interval(table[chosen] - own)
    helps = gain.surely_above(0)
    needed = _steps_to(float(table[chosen].mean()), table, steps)
    return Verdict(
        helps=helps,
        recipe=recipe if helps else "default",
        settings=tuple(chosen.split()) if helps and chosen != usual else (),
        gain=gain,
        nearness=mean_interval(table[usual] - table[RANDOM]),
        steps=steps,
        saved=None if needed is None else max(0, round(needed - steps)),
        tasks=len(own),
        accuracy={arm: float(values.mean()) for arm, values in table.items()},
        even=_even(table),
    )


def _even(table: Mapping[str, np.ndarray]) -> float | None:
    """The images at which own and lent importance count the same in the best arm; of equals the nearest to `EVEN`."""
    found = {float(arm.removeprefix(LENT)): float(values.mean()) for arm, values in table.items() if LENT in arm}
    return max(found, key=lambda even: (found[even], -abs(np.log(even / EVEN))), default=None)


def _best(arms: Sequence[str], usual: str, table: Mapping[str, np.ndarray]) -> str:
    """The recipe as it is, or the best of the arms that are surely better than it.

    Surely for several that are tried: by `FURTHER` times the half of the interval. The gain that is then told holds as
    often as it says (benchmarks/statistics/coverage.py); one chosen by its mean alone would look better than it is.
    """

    def surely_better(arm: str) -> bool:
        more = mean_interval(table[arm] - table[usual])
        return more.value > FURTHER * (more.value - more.low)

    return max([usual, *filter(surely_better, arms)], key=lambda arm: float(table[arm].mean()))


def _arms(recipe: Recipe, others: int, steps: int, of: str) -> dict[str, tuple[Recipe, int]]:
    tried = [*(f"neighbours={n}" for n in NEIGHBOURS if n < others), ALL, RANDOM]
    tried += [ALIKE] if recipe.weighting != "plain" else []
    votes_alone = replace(recipe, rivals=False)  # or its own importance would decide in some of the arms
    voting = {arm: (changed(votes_alone, arm.split()), steps) for arm in tried}
    lent = [way for way in recipe.ways(True, of) if way.votes == "lent"]
    blends = {f"{LENT}{images:g}": (replace(way, even=images), 0) for way in lent for images in EVENS}
    return voting | blends | {f"own x{times}": (RECIPES["own"], times * steps) for times in LONGER}


def _left_out(
    bank: Bank, entry: Entry, arms: Mapping[str, tuple[Recipe, int]], seeds: Sequence[int], device: torch.device
) -> dict[str, float]:
    """Each arm's accuracy on one task, the mean over the seeds."""
    budget, training = Budget(**entry.details["budget"]), TrainConfig(**entry.details["training"])
    if budget.of == "latency":  # as many MACs as the time left it: a bank keeps no profile
        budget = replace(budget, of="macs", fraction=entry.metrics["macs"] / entry.metrics["unpruned_macs"])
    task = Trials.of(images_of(entry, bank), bank, device)

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
