"""One threshold for all groups, on loss per cost: which units go first when everything has its price.

A unit's score is the rise in loss that its removal brings; what it costs are the MACs, parameters or whatever else the
budget counts. The cheapest rise per saving goes first, until the budget is met: the greedy solution of a knapsack,
optimal up to the last step where scores are rises and costs add up. Costs do not quite add up (a channel costs more
the wider its neighbours are), so savings are recomputed after every step.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mvp_deploy.pruning.budget import WHOLE, Budget, Scores, allowed_counts, unreachable
from mvp_deploy.structure import KeepPlan, Structure
from mvp_deploy.structure.tally import Tally


class Cost(Protocol):
    """What a budget counts, as a function of how many units each group keeps (group name -> count)."""

    def total(self, counts: Mapping[str, int]) -> float: ...

    def saving(self, counts: Mapping[str, int], group: str, fewer: int) -> float: ...

    def neighbours(self, group: str) -> set[str]: ...


class Units:
    """The number of units, of groups that can shrink at all."""

    def __init__(self, structure: Structure) -> None:
        self._names = {group.name for group in structure.groups if group.kind not in WHOLE}

    def total(self, counts: Mapping[str, int]) -> float:
        return float(sum(count for name, count in counts.items() if name in self._names))

    def saving(self, counts: Mapping[str, int], group: str, fewer: int) -> float:
        return float(counts[group] - fewer) if group in self._names else 0.0

    def neighbours(self, group: str) -> set[str]:
        return {group}


def cost_of(structure: Structure, of: str) -> Cost:
    """The cost that a budget of 'units', 'macs' or 'params' counts."""
    return Units(structure) if of == "units" else Tally(structure, of)  # type: ignore[arg-type]


def cheapest(
    structure: Structure,
    budget: Budget,
    scores: Scores,
    *,
    cost: Cost | None = None,
    within: KeepPlan | None = None,
) -> dict[str, int]:
    """How many units each group keeps, so that the loss rises least within the budget.

    Args:
        scores: per group float64 [units], the rise in loss when a unit goes, in one unit of measure for all groups.
        cost: what the budget's fraction is of; by default what ``budget.of`` says.
        within: never keep more than this plan does.

    Returns:
        Counts that rounding allows, at least the smallest of each group. The budget is met, and nothing that went
        would fit back into what is left of it.

    Raises:
        MvpError: the smallest counts of all groups together still cost more (units: they are returned instead).
    """
    cost = cost or cost_of(structure, budget.of)
    whole = cost.total({group.name: group.size for group in structure.groups})
    limit = budget.fraction * whole * (1 + 1e-9)
    ladders = {ladder.group: ladder for ladder in ladders_of(structure, budget, scores, within)}
    counts = {name: ladder.sizes[0] for name, ladder in ladders.items()}
    amount = cost.total(counts)
    steps: list[tuple[float, float, str, int]] = []  # rise per saving; at equal rates the group that kept most

    def offer(name: str) -> None:
        fewer = ladders[name].below(counts[name])
        if fewer is not None:
            saving = cost.saving(counts, name, fewer)
            rate[name] = ladders[name].rise(counts[name], fewer) / saving if saving > 0 else np.inf
            heapq.heappush(steps, (rate[name], -counts[name] / ladders[name].sizes[0], name, fewer))

    rate: dict[str, float] = {}
    for name in ladders:
        offer(name)
    while amount > limit and steps:
        price, _, name, fewer = heapq.heappop(steps)
        if price != rate[name] or fewer != ladders[name].below(counts[name]):
            continue  # worked out before a neighbour shrank
        amount -= cost.saving(counts, name, fewer)
        counts[name] = fewer
        for other in cost.neighbours(name):
            offer(other)
    amount = cost.total(counts)
    if amount > limit:
        if budget.of == "units":
            return counts
        raise unreachable(structure, budget, amount / whole)
    return _given_back(cost, ladders, counts, limit - amount)


@dataclass(frozen=True)
class Ladder:
    """The sizes that a group may take, largest first, and what it costs to go from one to another."""

    group: str
    sizes: list[int]
    lost: np.ndarray = field(repr=False)  # [units + 1]: the rise in loss when that many of the worst units are gone

    def below(self, size: int) -> int | None:
        place = self.sizes.index(size) + 1
        return self.sizes[place] if place < len(self.sizes) else None

    def above(self, size: int) -> int | None:
        place = self.sizes.index(size)
        return self.sizes[place - 1] if place else None

    def rise(self, size: int, fewer: int) -> float:
        return float(self.lost[self.sizes[0] - fewer] - self.lost[self.sizes[0] - size])


def ladders_of(structure: Structure, budget: Budget, scores: Scores, within: KeepPlan | None = None) -> list[Ladder]:
    """For each group, the sizes that rounding allows, and what its worst units are worth."""
    ladders = []
    for group in structure.groups:
        kept = np.ones(group.size, bool) if within is None else within.masks[group.name]
        sizes = allowed_counts(group, budget.round_to)
        sizes = np.append(sizes[sizes < kept.sum()], kept.sum())[::-1]
        values = np.nan_to_num(np.asarray(scores.get(group.name, np.zeros(group.size)), np.float64))[kept]
        lost = np.append(0, np.cumsum(np.sort(values)))
        ladders.append(Ladder(group.name, sizes.tolist(), lost))
    return ladders


def _given_back(cost: Cost, ladders: Mapping[str, Ladder], counts: dict[str, int], left: float) -> dict[str, int]:
    """Grow what is worth most of all that fits into the ``left`` of the budget, until nothing does."""
    while True:
        best: tuple[float, str, int, float] | None = None
        for name, ladder in ladders.items():
            more = ladder.above(counts[name])
            if more is None:
                continue
            price = cost.saving({**counts, name: more}, name, counts[name])
            worth = ladder.rise(more, counts[name]) / price if price > 0 else np.inf
            if price <= left and (best is None or worth > best[0]):
                best = worth, name, more, price
        if best is None:
            return counts
        _, name, more, price = best
        counts[name], left = more, left - price
