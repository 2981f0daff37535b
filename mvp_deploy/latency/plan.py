"""The widths that keep most importance within a budget of milliseconds: a knapsack with coupled costs.

What a layer takes depends on its inputs and its outputs, which neighbouring groups decide. With one choice of width for
each group (Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022), and one of each pair of
widths for groups that meet in a layer, cost and importance are linear:

    minimise    sum_g sum_i lost_g(i) x_gi                    lost: of importance, when group g keeps its i-th width
    subject to  sum_i x_gi = 1,   sum_j y_abij = x_ai,   sum_i y_abij = x_bj,
                sum_gi t_g(i) x_gi + sum_abij t_ab(i, j) y_abij <= milliseconds,   x binary, y >= 0

HiGHS (`scipy.optimize.milp`) solves it to within a gap that it proves. Groups with many widths are solved twice: on a
coarse choice of them, then on the finest around what was found; the gap is of the second problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvp_deploy.exporters.silence import muted
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.floor import BelowFloor
from mvp_deploy.pruning import knapsack
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.knapsack import Ladder
from mvp_deploy.structure import KeepPlan, Structure

WIDTHS = 8  # of a group, at once in a problem
SECONDS = 10.0  # for each of the two problems
GAP = 0.002  # where the solver may stop: of the importance lost


@dataclass(frozen=True)
class Solution:
    """How many units each group keeps, which blocks go whole, and what is known of it.

    ms: predicted. lost: importance. gap: how much of ``lost`` a perfect choice of widths could save at most, 0..1; None
    where layers that more than two groups meet in were taken apart, so that nothing is proved.
    """

    counts: dict[str, int]
    ms: float
    lost: float
    gap: float | None
    without: frozenset[str] = frozenset()


def solve(
    structure: Structure,
    cost: Milliseconds,
    scores: Scores,
    milliseconds: float,
    *,
    round_to: int = 8,
    within: KeepPlan | None = None,
) -> Solution:
    """The counts that keep most importance in so many milliseconds.

    Args:
        scores: per group float64 [units], the rise in loss when a unit goes, in one unit of measure for all groups.
        within: never keep more than this plan does.

    Raises:
        BelowFloor: not even the smallest counts fit.
    """
    whole = cost.total({group.name: group.size for group in structure.groups})
    budget = Budget(min(1.0, milliseconds / whole), "latency", round_to)
    ladders = {ladder.group: ladder for ladder in knapsack.ladders_of(structure, budget, scores, within)}
    floor = cost.total({name: ladder.sizes[-1] for name, ladder in ladders.items()})
    if floor > milliseconds:
        raise BelowFloor(milliseconds, floor, "Ask for more, or take a smaller backbone or a smaller --image-size.")
    best = knapsack.cheapest(structure, budget, scores, cost=cost, within=within)
    limit = min(milliseconds, whole)
    gap: float | None = 1.0
    for fine in (False, True):
        widths = {name: _widths(ladder, best[name], fine) for name, ladder in ladders.items()}
        found, bound = _solved(cost, ladders, widths, best, limit)
        if found and cost.total(found) <= limit * (1 + 1e-9) and _lost(ladders, found) <= _lost(ladders, best):
            best = found
        lost = _lost(ladders, best)
        gap = None if bound is None else 0.0 if lost <= 0 else max(0.0, 1 - bound / lost)
    return Solution(best, cost.total(best), _lost(ladders, best), gap)


def _widths(ladder: Ladder, around: int, fine: bool) -> list[int]:
    """The widths to choose from: evenly over all of them, or those next to one."""
    sizes = ladder.sizes
    place = sizes.index(around)
    if len(sizes) <= WIDTHS:
        return sizes
    if fine:
        begin = min(max(place - WIDTHS // 2, 0), len(sizes) - WIDTHS)
        return sizes[begin : begin + WIDTHS]
    even = np.linspace(0, len(sizes) - 1, WIDTHS).round().astype(int)
    return [sizes[index] for index in sorted({*even.tolist(), place})]


def _lost(ladders: Mapping[str, Ladder], counts: Mapping[str, int]) -> float:
    return sum(ladder.rise(ladder.sizes[0], counts[name]) for name, ladder in ladders.items())


def _solved(
    cost: Milliseconds,
    ladders: Mapping[str, Ladder],
    widths: Mapping[str, Sequence[int]],
    around: Mapping[str, int],
    limit: float,
) -> tuple[dict[str, int] | None, float | None]:
    """The best of these widths, and a bound that no choice of them goes below (None: not proved)."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    costs = _Costs.of(cost, widths, around)
    problem = _Problem()
    x = {
        name: [problem.variable(ladders[name].rise(ladders[name].sizes[0], width), time, whole=True) for width, time in
               zip(choices, costs.alone[name], strict=True)]
        for name, choices in widths.items()
    }  # fmt: skip
    for chosen in x.values():
        problem.require(dict.fromkeys(chosen, 1.0), 1.0)
    for (first, second), table in costs.pairs.items():
        y = [[problem.variable(0.0, time) for time in row] for row in table]
        for row, chosen_one in zip(y, x[first], strict=True):
            problem.require({**dict.fromkeys(row, 1.0), chosen_one: -1.0}, 0.0)
        for column, chosen_one in zip(zip(*y, strict=True), x[second], strict=True):
            problem.require({**dict.fromkeys(column, 1.0), chosen_one: -1.0}, 0.0)
    objective = np.array(problem.objective)
    scale = max(objective.max(initial=0.0), 1e-300)
    times = np.array(problem.times)[None]
    with muted():  # HiGHS prints some of its calls
        found = milp(
            objective / scale,
            integrality=np.array(problem.whole, int),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(problem.matrix(), problem.sides, problem.sides),
                LinearConstraint(times, -np.inf, limit - costs.constant),
            ],
            options={"time_limit": SECONDS, "mip_rel_gap": GAP},
        )
    bound = None if costs.taken_apart or found.mip_dual_bound is None else float(found.mip_dual_bound) * scale
    if found.x is None:
        return None, bound
    return {name: widths[name][int(np.argmax(found.x[chosen]))] for name, chosen in x.items()}, bound


@dataclass(frozen=True)
class _Costs:
    """Milliseconds: of no choice, of each group's widths alone, and of each pair of widths of groups that meet."""

    constant: float
    alone: Mapping[str, np.ndarray]
    pairs: Mapping[tuple[str, str], np.ndarray]
    taken_apart: bool  # layers of more than two groups: each group's share by itself, around the given counts

    @classmethod
    def of(cls, cost: Milliseconds, widths: Mapping[str, Sequence[int]], around: Mapping[str, int]) -> _Costs:
        constant, taken_apart = cost.model.overhead, False
        alone = {name: np.zeros(len(choices)) for name, choices in widths.items()}
        pairs: dict[tuple[str, str], np.ndarray] = {}
        for number, groups in enumerate(cost.groups):
            here = cost.layer(number, around)
            free = [name for name in groups if len(widths[name]) > 1]
            if len(free) == 2:
                first, second = free
                table = np.array([
                    [cost.layer(number, {**around, first: one, second: two}) for two in widths[second]]
                    for one in widths[first]
                ])  # fmt: skip
                pairs[first, second] = pairs.get((first, second), 0.0) + table
                continue
            constant += here
            taken_apart |= len(free) > 2
            for name in free:
                alone[name] += [cost.layer(number, {**around, name: width}) - here for width in widths[name]]
        return cls(constant, alone, pairs, taken_apart)


class _Problem:
    """A mixed-integer program while it is put together."""

    def __init__(self) -> None:
        self.objective: list[float] = []
        self.times: list[float] = []
        self.whole: list[bool] = []
        self.sides: list[float] = []
        self._entries: list[tuple[int, int, float]] = []

    def variable(self, lost: float, time: float, *, whole: bool = False) -> int:
        self.objective.append(lost)
        self.times.append(time)
        self.whole.append(whole)
        return len(self.whole) - 1

    def require(self, terms: Mapping[int, float], side: float) -> None:
        """The sum of factor times variable must be ``side``."""
        self._entries += [(len(self.sides), variable, factor) for variable, factor in terms.items()]
        self.sides.append(side)

    def matrix(self) -> Any:
        from scipy.sparse import csr_array

        rows, columns, factors = zip(*self._entries, strict=True)
        return csr_array((factors, (rows, columns)), shape=(len(self.sides), len(self.whole)))
