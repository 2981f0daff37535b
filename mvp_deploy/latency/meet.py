"""A plan that meets a time: chosen by a profile, built, timed, and where it misses chosen again."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mvp_deploy.base.errors import InputError, LatencyError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency.choose import choose
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.floor import BelowFloor
from mvp_deploy.latency.format import Precision, Profile
from mvp_deploy.latency.plan import Solution
from mvp_deploy.pruning.blocks import Worth
from mvp_deploy.pruning.budget import Budget, Scores

if TYPE_CHECKING:
    from mvp_deploy.latency.timer import Timer
    from mvp_deploy.pruning.original import Original
    from mvp_deploy.structure import KeepPlan, Structure

CORRECTIONS = 2
TOLERANCE = 0.02  # of the time asked for: what a measurement cannot tell apart
SLACK = 0.05  # a model that is faster than asked by more than this is chosen again, with more kept


@dataclass(frozen=True)
class Target:
    """How fast: in milliseconds, or so many times faster than unpruned.

    gained: what the precision alone gains over float32, where the speed-up is of the unpruned model in float32.
    """

    milliseconds: float | None = None
    speed_up: float | None = None
    gained: float = 1.0

    def __post_init__(self) -> None:
        if (self.milliseconds is None) == (self.speed_up is None):
            raise InputError("a latency and a speed-up exclude each other: give one.")
        if self.milliseconds is not None and not 0 < self.milliseconds < math.inf:
            raise InputError(f"a latency must be milliseconds above 0, as 4ms, not {self.milliseconds}.")
        if self.speed_up is not None and not 1 <= self.speed_up < math.inf:
            raise InputError(f"a speed-up must be 1 or more, as 2x, not {self.speed_up}.")

    def of(self, full: float) -> float:
        """Milliseconds, where the unpruned model takes ``full``."""
        return self.milliseconds if self.milliseconds is not None else full * self.gained / (self.speed_up or 1.0)

    def share(self, full: float) -> float:
        """The part of the unpruned model's milliseconds that this is, at most 1."""
        return min(1.0, self.of(full) / full)

    def than_float32(self, profile: Profile, shipped: Collection[Precision], reporter: Reporter) -> Target:
        """The same, a speed-up counted from the unpruned model in float32, if the profile's precision ships.

        Otherwise it counts from that model in the profile's precision, which is told: what a precision gains that does
        not ship is no speed-up. So it does where float32's time is not known.
        """
        if self.speed_up is None or profile.precision == "fp32":
            return self
        if profile.precision not in shipped:
            reporter.say(f"{self} than the unpruned model in {profile.precision}, since that is not shipped")
            return self
        if not profile.float32_ms:
            reporter.warn(
                f"the profile does not tell what the unpruned model takes in float32: {self} is of its time in "
                f"{profile.precision}. Profile the backbone again to count from float32."
            )
            return self
        return replace(self, gained=profile.float32_ms / profile.full_ms)

    def __str__(self) -> str:
        if self.milliseconds is not None:
            return f"{self.milliseconds:g} ms"
        than = "" if self.gained == 1 else f" than in float32, {self.gained:.2f} of which the precision alone gives"
        return f"{self.speed_up:g} times faster{than}"


def quantity(text: str, unit: str) -> float:
    """The number in «4ms», «4 ms» or «4» (unit 'ms'), «2x» or «2» (unit 'x'). Raises InputError for anything else."""
    found = re.fullmatch(rf"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:{unit})?\s*", text)
    if not found:
        raise InputError(f"{text!r} is not a number of {unit}: write it as 4{unit}.")
    return float(found[1])


@dataclass(frozen=True)
class Met:
    """How a budget was met. ms, full_ms: measured, None where they cannot be, see `timer`. blocks: that went whole."""

    target: str
    profile: str
    predicted_ms: float
    predicted_full_ms: float
    gap: float | None
    ms: float | None = None
    full_ms: float | None = None
    plans: int = 1
    blocks: tuple[str, ...] = ()

    def __str__(self) -> str:
        proved = "" if self.gap is None else f", at most {self.gap:.1%} of the lost importance above the optimum"
        if self.blocks:
            proved = f", without {', '.join(self.blocks)}{proved}"
        if self.ms is None or self.full_ms is None:
            return f"{self.predicted_ms:.3f} ms by the profile of {self.profile}, not timed here{proved}"
        faster = f"{self.full_ms / self.ms:.2f}x faster than unpruned"
        return f"{self.ms:.3f} ms measured ({self.predicted_ms:.3f} predicted), {faster}{proved}"


@dataclass(frozen=True)
class Allotted:
    """How many units each group keeps, which blocks go, and how that met the budget."""

    counts: Mapping[str, int]
    without: frozenset[str]
    met: Met

    @property
    def told(self) -> dict[str, Any]:
        """What files say of it."""
        return asdict(self.met)


class Meeting:
    """Chooses how many units each group keeps and which blocks go, by what they are worth, for `pruning.mvp.decide`.

    timer: times a plan's real model; None where that cannot be done. The target is fixed in milliseconds by
    ``budget``, whose fraction is of the profile's unpruned time.
    known: other profiles, of which one is named where no cut meets the time.
    """

    def __init__(
        self,
        structure: Structure,
        profile: Profile,
        target: Target,
        *,
        round_to: int,
        timer: Timer | None,
        reporter: Reporter,
        known: Sequence[Profile] = (),
    ) -> None:
        self.structure, self.profile, self.target = structure, profile, target
        self.cost = Milliseconds(structure, profile)
        self.round_to = max(round_to, self.cost.model.alignment)
        self.timer, self.reporter, self.known = timer, reporter, known
        self.full = self.cost.total({group.name: group.size for group in structure.groups})

    @property
    def budget(self) -> Budget:
        """The budget as a fraction of the unpruned model's milliseconds, by the profile."""
        return Budget(self.target.share(self.full), "latency", self.round_to)

    def require_reachable(self) -> None:
        """Raise BelowFloor if even the smallest counts without any block take too long, before anything is scored."""
        bare = self.cost.without([block.name for block in self.structure.blocks])
        floor, limit = bare.floor(self.round_to), self.target.of(self.full)
        if floor > limit:
            raise BelowFloor(limit, floor, "").beside(self.profile, self.known)

    def __call__(
        self, scores: Scores, worth: Worth | None = None, *, within: KeepPlan | None = None, part: float = 1.0
    ) -> Allotted:
        """What stays. Raises LatencyError if no plan's real model meets the target."""
        limit, timer = self.target.of(self.full), self.timer
        if part < 1:
            limit, timer = self.full * min(1.0, limit / self.full) ** part, None
        found: list[tuple[Solution, Met]] = []
        for number in range(1 + CORRECTIONS):
            try:
                solution = choose(
                    self.structure, self.cost, scores, limit, round_to=self.round_to, worth=worth, within=within
                )
            except BelowFloor as error:
                if not found:
                    raise error.beside(self.profile, self.known) from error
                break  # what would make up for the profile's error is below what cutting reaches
            told = str(self.target), str(self.profile), solution.ms, self.full, solution.gap
            met = Met(*told, plans=number + 1, blocks=tuple(sorted(solution.without)))
            if timer is None:
                found.append((solution, met))
                break
            ms, full = timer(solution)
            found.append((solution, replace(met, ms=ms, full_ms=full)))
            self.reporter.say(f"plan {number + 1}: {found[-1][1]}")
            miss = ms / self.target.of(full)
            if 1 - SLACK <= miss <= 1 + TOLERANCE or (self._is_whole(solution) and miss < 1):
                break
            limit = min(self.full, solution.ms / miss * (1 - TOLERANCE / 2))
        good = [pair for pair in found if _missed(self.target, pair[1]) <= 1 + TOLERANCE]
        if not good:
            _, met = min(found, key=lambda pair: _missed(self.target, pair[1]))
            raise LatencyError(
                f"{self.target} is asked for, and the best of {len(found)} plans takes {met.ms:.3f} ms, "
                f"{_missed(self.target, met) - 1:.1%} too long: ask for a little less time, or profile this machine "
                "again when it is quiet."
            )
        solution, met = min(good, key=lambda pair: pair[0].lost)
        if (miss := _missed(self.target, met)) < 1 - SLACK and not self._is_whole(solution):
            self.reporter.warn(
                f"{self.target} is asked for, and the best of {len(found)} plans takes {met.ms:.3f} ms, {1 - miss:.1%} "
                "less than it may: accuracy may have been given away. Ask for a little more time, lower --round-to, or "
                "profile this machine again when it is quiet."
            )
        return Allotted(solution.counts, solution.without, met)

    def missed(self) -> float | None:
        """What the unpruned model takes, in milliseconds, if that is too long; None too where it cannot be timed."""
        if self.timer is None:
            return None
        whole = Solution({group.name: group.size for group in self.structure.groups}, self.full, 0.0, None)
        ms, full = self.timer(whole)
        return ms if ms > (1 + TOLERANCE) * self.target.of(full) else None

    def _is_whole(self, solution: Solution) -> bool:
        """Whether nothing is cut."""
        return not solution.without and all(
            solution.counts[group.name] == group.size for group in self.structure.groups
        )


@dataclass(frozen=True)
class Meet:
    """Makes what allots a model's units under a budget of time.

    Attributes:
        clock: Gives what times that model's plans, or None where that cannot be done.
        known: Other profiles; where no cut meets the time, the error names one whose backbone does.
    """

    target: Target
    profile: Profile
    round_to: int
    clock: Callable[[Original], Timer | None]
    reporter: Reporter
    known: Sequence[Profile] = ()

    def __call__(self, original: Original) -> Meeting:
        """Raises BelowFloor at once where no plan can meet the time."""
        made = Meeting(
            original.structure,
            self.profile,
            self.target,
            round_to=self.round_to,
            timer=self.clock(original),
            reporter=self.reporter,
            known=self.known,
        )
        made.require_reachable()
        return made

    @property
    def budget(self) -> Budget:
        """As a share of the profile's unpruned time."""
        return Budget(self.target.share(self.profile.full_ms), "latency", self.round_to)

    @property
    def unneeded(self) -> bool:
        """Whether the unpruned model takes no longer, as the profile says."""
        return self.target.of(self.profile.full_ms) >= self.profile.full_ms

    @property
    def key(self) -> str:
        """A checksum of the time and of the profile by which it is met."""
        return hashlib.sha256(repr((self.target, self.profile)).encode()).hexdigest()


def _missed(target: Target, met: Met) -> float:
    """The time that a model takes, over the time asked for."""
    if met.ms is None or met.full_ms is None:
        return 1.0
    return met.ms / target.of(met.full_ms)
