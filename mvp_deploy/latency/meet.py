"""A plan that meets a time: chosen by a profile, built, timed, and where it misses chosen again."""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvp_deploy.base.environment import environment
from mvp_deploy.base.errors import EnvironmentMissing, InputError, LatencyError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.measure import Settings, session
from mvp_deploy.latency.choose import choose
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.engines import gpu_of
from mvp_deploy.latency.files import remarks
from mvp_deploy.latency.floor import BelowFloor
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.measure import opened, runtime_version
from mvp_deploy.latency.pieces import converted
from mvp_deploy.latency.plan import Solution
from mvp_deploy.pruning.blocks import Worth
from mvp_deploy.pruning.budget import Budget, Scores

if TYPE_CHECKING:
    from torch import nn

    from mvp_deploy.pruning.original import Original
    from mvp_deploy.structure import Structure

ELSEWHERE = "the profile is of another machine or runtime than here: the pruned model is not timed, so time it there."
Clock = Callable[["tuple[nn.Module, ...]"], "tuple[float, ...]"]  # models -> milliseconds of each
Timer = Callable[[Solution], tuple[float, float]]  # what stays -> milliseconds of that model, and of the unpruned one

CORRECTIONS = 2
TOLERANCE = 0.02  # of the time asked for: what a measurement cannot tell apart
SLACK = 0.05  # a model that is faster than asked by more than this is chosen again, with more kept
WINDOWS = Settings(duration=2.0, processes=2, window=0.05, warm_up=0.2)


@dataclass(frozen=True)
class Target:
    """How fast: in milliseconds, or so many times faster than unpruned."""

    milliseconds: float | None = None
    speed_up: float | None = None

    def __post_init__(self) -> None:
        if (self.milliseconds is None) == (self.speed_up is None):
            raise InputError("a latency and a speed-up exclude each other: give one.")
        if self.milliseconds is not None and not 0 < self.milliseconds < math.inf:
            raise InputError(f"a latency must be milliseconds above 0, as 4ms, not {self.milliseconds}.")
        if self.speed_up is not None and not 1 <= self.speed_up < math.inf:
            raise InputError(f"a speed-up must be 1 or more, as 2x, not {self.speed_up}.")

    def of(self, full: float) -> float:
        """Milliseconds, where the unpruned model takes ``full``."""
        return self.milliseconds if self.milliseconds is not None else full / (self.speed_up or 1.0)

    def share(self, full: float) -> float:
        """The part of the unpruned model's milliseconds that this is, at most 1."""
        return min(1.0, self.of(full) / full)

    def __str__(self) -> str:
        return f"{self.milliseconds:g} ms" if self.milliseconds is not None else f"{self.speed_up:g} times faster"


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

    def __call__(self, scores: Scores, worth: Worth | None = None) -> Allotted:
        """What stays. Raises LatencyError if no plan's real model meets the target."""
        limit = self.target.of(self.full)
        found: list[tuple[Solution, Met]] = []
        for number in range(1 + CORRECTIONS):
            try:
                solution = choose(self.structure, self.cost, scores, limit, round_to=self.round_to, worth=worth)
            except BelowFloor as error:
                if not found:
                    raise error.beside(self.profile, self.known) from error
                break  # what would make up for the profile's error is below what cutting reaches
            told = str(self.target), str(self.profile), solution.ms, self.full, solution.gap
            met = Met(*told, plans=number + 1, blocks=tuple(sorted(solution.without)))
            if self.timer is None:
                found.append((solution, met))
                break
            ms, full = self.timer(solution)
            found.append((solution, replace(met, ms=ms, full_ms=full)))
            self.reporter.say(f"plan {number + 1}: {found[-1][1]}")
            miss = ms / self.target.of(full)
            kept = (solution.counts[group.name] == group.size for group in self.structure.groups)
            everything = not solution.without and all(kept)
            if 1 - SLACK <= miss <= 1 + TOLERANCE or (everything and miss < 1):
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
        return Allotted(solution.counts, solution.without, met)


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
        return Meeting(
            original.structure,
            self.profile,
            self.target,
            round_to=self.round_to,
            timer=self.clock(original),
            reporter=self.reporter,
            known=self.known,
        )

    @property
    def budget(self) -> Budget:
        """As a share of the profile's unpruned time."""
        return Budget(self.target.share(self.profile.full_ms), "latency", self.round_to)

    @property
    def key(self) -> str:
        """A checksum of the time and of the profile by which it is met."""
        return hashlib.sha256(repr((self.target, self.profile)).encode()).hexdigest()


def here(profile: Profile, reporter: Reporter, original: Original) -> Timer | None:
    """What times plans on this machine; None, which is said, where the profile is of another."""
    found = timer(original.structure, original.model, profile)
    if found is None:
        reporter.say(ELSEWHERE)
    return found


def _missed(target: Target, met: Met) -> float:
    """The time that a model takes, over the time asked for."""
    if met.ms is None or met.full_ms is None:
        return 1.0
    return met.ms / target.of(met.full_ms)


def timer(structure: Structure, full: nn.Module, profile: Profile) -> Timer | None:
    """What times a plan's model beside the unpruned one, in turns; None if it cannot be timed here.

    That is where the profile is of another machine, or this Python lacks its runtime.

    Raises:
        MvpError: the machine is the profile's, and the runtime is of another version.
    """
    if not _here(profile):
        return None
    try:
        version = runtime_version(profile.conditions)
    except EnvironmentMissing:  # TensorRT may have a Python of its own
        return None
    if version != profile.version:
        raise InputError(
            f"the profile was taken with {profile.conditions.runtime} {profile.version}, and {version} is installed: "
            "profile the backbone again."
        )

    return plan_timer(structure, full, partial(time_models, profile))


def plan_timer(structure: Structure, full: nn.Module, clock: Clock) -> Timer:
    """What times a plan's model beside the unpruned one by ``clock``, which is given both."""

    def time_plan(solution: Solution) -> tuple[float, float]:
        from mvp_deploy.structure import KeepPlan, prune

        masks = {group.name: np.arange(group.size) < solution.counts[group.name] for group in structure.groups}
        ms, full_ms = clock((prune(structure, full, KeepPlan(masks, solution.without), check=False), full))
        return ms, full_ms

    return time_plan


def _here(profile: Profile) -> bool:
    """Whether this machine, with its GPU if that computed, is the profile's."""
    try:
        return (environment()["cpu"], gpu_of(profile.conditions.device)) == (profile.machine.cpu, profile.machine.gpu)
    except EnvironmentMissing:  # no such GPU
        return False


def time_models(profile: Profile, models: tuple[nn.Module, ...]) -> tuple[float, ...]:
    """Milliseconds of several models under a profile's conditions, taken in turns."""
    conditions = profile.conditions
    batch = np.random.default_rng(0).standard_normal((conditions.batch, *profile.input_size), np.float32)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = exported(profile, models, Path(folder))
        runners = [stack.enter_context(closing(opened(file, profile.precision, conditions))) for file in files]
        return tuple(found.median for found in session(runners, batch, WINDOWS))


def exported(profile: Profile, models: tuple[nn.Module, ...], folder: Path) -> list[Path]:
    """ONNX files of models in a profile's precision and form."""
    import torch

    from mvp_deploy.exporters.onnx import export_onnx

    form, size = profile.conditions.form, profile.input_size
    found = []
    for number, model in enumerate(models):
        file = export_onnx(model, torch.zeros(1, *size), folder / f"{number}.fp32.onnx", {})
        found.append(converted(file, profile.precision, form, size, folder / f"{number}.onnx"))
    return found


def profile_on(path: Path, make: Callable[[], Profile], reporter: Reporter, where: str = "this machine") -> Profile:
    """The profile at ``path``; if there is none, one is made of ``where``, which takes minutes and is said."""
    from mvp_deploy.latency import files

    if path.exists():
        found = files.read(path)
        for remark in remarks(found):
            reporter.warn(remark)
        return found
    reporter.say(f"there is no profile {path}: {where} is profiled first, which takes some minutes.")
    start = time.monotonic()
    found = make()
    reporter.say(f"profiled in {time.monotonic() - start:.0f} s: {found} -> {path}")
    return found
