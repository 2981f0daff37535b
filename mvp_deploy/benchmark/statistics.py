"""Values with their 95 % intervals, and limits to judge them by; numpy alone.

Student's t (Student, "The probable error of a mean", 1908) for means of a few independent values; for two accuracies on
the same images, the paired interval that belongs to McNemar's test (McNemar 1947). `benchmarks/statistics/coverage.py`
shows how often each holds the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Outcome = Literal["met", "failed", "too noisy to tell", "not measured"]

NORMAL = 1.959964  # the normal distribution's quantile at 97.5 %
FEW = (12.7062, 4.3027, 3.1824, 2.7764)  # Student's t at 97.5 % with 1 to 4 degrees of freedom


@dataclass(frozen=True)
class Interval:
    """A value and the 95 % interval around it; the three are equal where the value has no noise."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Interval:
        """Of a value that was counted, not sampled."""
        return cls(value, value, value)

    @property
    def spread(self) -> float:
        """Half the interval's width, relative to the value."""
        return (self.high - self.low) / (2 * abs(self.value)) if self.value else math.inf

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.value, self.low, self.high)))

    def surely_above(self, limit: float) -> bool:
        return self.low > limit

    def surely_below(self, limit: float) -> bool:
        return self.high < limit

    def over(self, other: Interval) -> Interval:
        """This positive value divided by another, with the widest interval that both allow."""
        return Interval(self.value / other.value, self.low / other.high, self.high / other.low)

    @property
    def shares(self) -> str:
        """Of a share (0..1): «52.0% (45.1% to 58.8%)»."""
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"

    @property
    def times(self) -> str:
        """Of a speed-up: «1.52x (1.45-1.58)»."""
        return f"{self.value:.2f}x ({self.low:.2f}-{self.high:.2f})"

    @property
    def points(self) -> str:
        """A difference of accuracies (0..1) in points: «+1.2 points, -0.3 to +2.7»."""
        return f"{100 * self.value:+.1f} points, {100 * self.low:+.1f} to {100 * self.high:+.1f}"


@dataclass(frozen=True)
class Limit:
    """A bound and its direction: made by `at_most` and `at_least`."""

    bound: float
    upper: bool

    def met_by(self, found: Interval) -> bool:
        """Whether all of the interval lies within the limit."""
        return found.finite and (found.high <= self.bound if self.upper else found.low >= self.bound)

    def broken_by(self, found: Interval) -> bool:
        """Whether none of the interval lies within the limit. What is not a number breaks every limit."""
        surely = found.surely_above(self.bound) if self.upper else found.surely_below(self.bound)
        return surely or not found.finite

    def judge(self, found: Interval) -> Outcome:
        """Met and failed are both said only where the whole interval says so."""
        if self.met_by(found):
            return "met"
        return "failed" if self.broken_by(found) else "too noisy to tell"


def at_most(bound: float) -> Limit:
    return Limit(bound, upper=True)


def at_least(bound: float) -> Limit:
    return Limit(bound, upper=False)


def student(degrees: int) -> float:
    """Student's t at 97.5 %: tabulated up to 4 degrees of freedom, then Fisher's expansion (error below 0.1 %)."""
    if degrees <= len(FEW):
        return FEW[degrees - 1]
    z = NORMAL
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of two or more independent values, with Student's interval."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    half = student(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def ratio_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The geometric mean of positive values: `mean_interval` of the logarithms, which treats x and 1 / x the same."""
    logs = mean_interval(np.log(values))
    return Interval(*map(math.exp, (logs.value, logs.low, logs.high)))


def paired_change(before: np.ndarray, now: np.ndarray) -> Interval:
    """By how much the share of True changed, -1..1, between two answers bool [n] to the same questions.

    Only the questions with different answers count (McNemar 1947). One answer of each kind is added first, which makes
    the interval hold for few questions too (Bonett and Price, "Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data", 2012).
    """
    n, gained, lost = len(now), int((now & ~before).sum()), int((before & ~now).sum())
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = NORMAL * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    centre = up - down
    return Interval((gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half))


def share_interval(hits: int, n: int) -> Interval:
    """A share of ``n``, such as an accuracy, with Wilson's score interval (Wilson 1927)."""
    share, spread = hits / n, NORMAL**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def accuracy_interval(accuracy: float, tested: int) -> Interval:
    """An accuracy (0..1) on ``tested`` images; as it is where nobody told on how many (0)."""
    return share_interval(round(accuracy * tested), tested) if tested else Interval.exact(accuracy)


def unpaired_change(before: float, before_n: int, now: float, now_n: int) -> Interval:
    """By how much a share (0..1) of ``n`` changed, on different images.

    Agresti and Caffo (2000): one hit and one miss are added to each.
    """
    shares = [(share * n + 1) / (n + 2) for share, n in ((before, before_n), (now, now_n))]
    variance = sum(p * (1 - p) / (n + 2) for p, n in zip(shares, (before_n, now_n), strict=True))
    half, centre = NORMAL * math.sqrt(variance), shares[1] - shares[0]
    return Interval(now - before, centre - half, centre + half)
