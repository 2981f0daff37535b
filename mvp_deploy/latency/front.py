"""Candidates to ship, the front of those that no other beats, and what to take: frontier.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from mvp_deploy.base.errors import LatencyError
from mvp_deploy.base.formats import Amount, Count, Share, Within
from mvp_deploy.benchmark.statistics import Interval, accuracy_interval
from mvp_deploy.latency.format import Conditions, Precision


@dataclass(frozen=True)
class Candidate:
    """One model.

    share: of the unpruned ``of`` ('latency' or 'macs') that it keeps, 1 for unpruned. loo, accuracy: leave-one-out on
    training images, and held-out, of this file in its runtime; a tuned model's loo is its untuned twin's and what
    tuning gained on images set aside. ms: measured, in turns with the first candidate. steps: of fine-tuning that it
    has seen. tried: steps of fine-tuning that were tried on it, whose outcome, if it is better, is a candidate of its
    own. aim: the milliseconds that it was cut for, None where it was cut to a share.
    """

    backbone: Annotated[str, Within(1, 300)]
    image_size: Annotated[int, Within(1, 100_000)]
    share: Share
    of: Annotated[str, Within(1, 20)]
    macs: Count
    loo: Share
    accuracy: Share
    tested: Count
    ms: Annotated[float, Within(1e-6, 1e9)]
    file: Annotated[str, Within(1, 300)]
    seconds: Amount  # that finding it took
    ms_factor: Annotated[float, Within(1, 1e9)] = 1.0
    precision: Precision = "fp32"
    steps: Count = 0
    tried: Count = 0
    aim: Annotated[float, Within(1e-6, 1e9)] | None = None

    @property
    def unpruned(self) -> bool:
        return self.share == 1

    @property
    def model(self) -> tuple[str, int, float]:
        """What its twins in other precisions share."""
        return self.backbone, self.image_size, self.share

    @property
    def name(self) -> str:
        cut = "" if self.unpruned else f" cut to {percent(self.share)} of its {self.of}"
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        return f"{self.backbone} at {self.image_size} px{cut}{precision}{', tuned' if self.steps else ''}"

    @property
    def label(self) -> str:
        """The name in short, for a picture."""
        cut = "" if self.unpruned else f", {percent(self.share)}"
        precision = "" if self.precision == "fp32" else f", {self.precision}"
        return f"{self.backbone} {self.image_size} px{cut}{precision}{', tuned' if self.steps else ''}"

    @property
    def milliseconds(self) -> Interval:
        return Interval(self.ms, self.ms / self.ms_factor, self.ms * self.ms_factor)

    @property
    def interval(self) -> Interval:
        """Of the held-out accuracy."""
        return accuracy_interval(self.accuracy, self.tested)


def percent(share: float) -> str:
    """63.2%, and 70% where it is no more."""
    return f"{100 * share:.3g}%"


@dataclass(frozen=True)
class Failure:
    """A candidate that cannot be made, and why."""

    backbone: Annotated[str, Within(1, 300)]
    image_size: Annotated[int, Within(1, 100_000)]
    share: Share
    precision: Precision
    why: Annotated[str, Within(0, 10_000)]

    @property
    def name(self) -> str:
        return f"{self.backbone} at {self.image_size} px, {percent(self.share)}, {self.precision}"


@dataclass(frozen=True)
class Frontier:
    """All candidates so far, and those that failed; ``key``: of what they were made from."""

    key: Annotated[str, Within(1, 100)]
    conditions: Conditions
    candidates: tuple[Candidate, ...] = ()
    failed: tuple[Failure, ...] = ()

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other beats in both leave-one-out accuracy and milliseconds, fastest first."""
        best: list[Candidate] = []
        for each in sorted(self.candidates, key=lambda c: (c.ms, -c.loo)):
            if not best or each.loo > best[-1].loo:
                best.append(each)
        return best

    def within(self, milliseconds: float | None) -> list[Candidate]:
        """The candidates that take no longer."""
        return [each for each in self.candidates if milliseconds is None or each.ms <= milliseconds]

    def to_tune(self, milliseconds: float | None) -> list[Candidate]:
        """The untuned front, and the best unpruned candidate within the time: what may win, first."""
        untuned = replace(self, candidates=tuple(each for each in self.candidates if not each.steps))
        within = untuned.within(milliseconds)
        plain = sorted((each for each in within if each.unpruned), key=lambda c: -c.loo)[:1]
        front = sorted(untuned.front, key=lambda c: (c not in within, -c.loo))
        models = list(dict.fromkeys(each.model for each in [*front[:1], *plain, *front[1:]]))
        return sorted({*front, *plain}, key=lambda c: (models.index(c.model), c.precision))

    def winner(self, milliseconds: float | None) -> Candidate:
        """The most accurate candidate within the time. Raises LatencyError where none is."""
        good = self.within(milliseconds)
        if not good:
            fastest = min(self.candidates, key=lambda c: c.ms)
            raise LatencyError(
                f"no candidate takes {milliseconds:g} ms or less: the fastest is {fastest.name} with {fastest.ms:.3f} "
                "ms. Allow more, or add a smaller --image-size or backbone."
            )
        return max(good, key=lambda c: (c.loo, -c.ms))

    def told(self, milliseconds: float | None) -> str:
        """The verdict, or that nothing meets the time."""
        try:
            return self.verdict(milliseconds)
        except LatencyError as error:
            return str(error)

    def verdict(self, milliseconds: float | None) -> str:
        """What to take, and whether pruning is it."""
        best = self.winner(milliseconds)
        within = "" if milliseconds is None else f" within {milliseconds:g} ms"
        low, high = best.interval.low, best.interval.high
        told = (
            f"Most accurate{within}: {best.name}, {best.ms:.3f} ms, {best.accuracy:.1%} on {best.tested} held-out "
            f"images ({low:.1%} to {high:.1%})."
        )
        if best.unpruned and len(self.candidates) > sum(each.unpruned for each in self.candidates):
            return f"{told} Do not prune: no cut that was tried is better there."
        plain = [each for each in self.within(milliseconds) if each.unpruned]
        if not best.unpruned and plain:
            other = max(plain, key=lambda c: c.loo)
            return f"{told} Unpruned the best there is {other.name}: {other.ms:.3f} ms, {other.accuracy:.1%}."
        return told
