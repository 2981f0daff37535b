"""The study's cells, paired: which arm does better than which, with intervals over targets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from arms import UNPRUNED
from cells import Cell

from mvp_deploy.benchmark.statistics import Interval, mean_interval


@dataclass(frozen=True)
class Difference:
    """Of two arms' accuracy, in points: the mean over targets and its 95 % interval."""

    points: Interval
    targets: int

    @classmethod
    def of(cls, apart: np.ndarray) -> Difference:
        """Of each target's difference, float64 [targets]."""
        return cls(mean_interval(apart), len(apart))

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return self.points.surely_above(0) or self.points.surely_below(0)

    def __str__(self) -> str:
        text = f"{self.points.value:+.1f} ({self.points.low:+.1f} to {self.points.high:+.1f})"
        return f"**{text}**" if self.sure else text


def of_arm(cells: Sequence[Cell], arm: str, keep: float, steps: int) -> dict[tuple[str, int], Cell]:
    """The arm's cells by target and seed."""
    kept = 1.0 if arm == UNPRUNED else keep
    return {
        (cell["target"], cell["seed"]): cell
        for cell in cells
        if (cell["arm"], cell["keep"], cell["steps"]) == (arm, kept, steps)
    }


def mean(cells: Mapping[tuple[str, int], Cell], value: str) -> float:
    return float(np.mean([cell[value] for cell in cells.values()]))


def difference(one: Mapping[tuple[str, int], Cell], other: Mapping[tuple[str, int], Cell]) -> Difference | None:
    """One minus the other on the targets and seeds that both have; None with fewer than three targets."""
    found: dict[str, list[float]] = defaultdict(list)
    for target, seed in sorted(one.keys() & other.keys()):
        found[target].append(100 * (one[target, seed]["accuracy"] - other[target, seed]["accuracy"]))
    if len(found) < 3:
        return None
    each = np.array([np.mean(values) for values in found.values()])
    return Difference.of(each)
