"""Timing in fresh processes: each is one look at the models, and a look that other work disturbed does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvp_deploy.base.environment import cores, other_work
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.processes import apart
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.measure import Session, Settings, session
from mvp_deploy.benchmark.runner import Runner, open_runner

BUSY = 0.1  # share of the cores that other processes may use before times are called disturbed
SPARE = 3  # disturbed looks that others make up for


@dataclass(frozen=True, eq=False)
class Round:
    """What is timed at one batch size."""

    models: Sequence[tuple[Path, str, str]]  # file, runtime and device of each
    batch: int
    images: np.ndarray | None  # float32 [batch, 3, H, W]; None: noise of the first model's shape
    seed: int = 0  # of the noise


@dataclass(frozen=True)
class Look:
    """What one process found."""

    sessions: Sequence[Sequence[Session]]  # for each round, of each model
    others: float | None  # cores that other processes kept busy meanwhile; None if the system does not tell


def disturbed(environment: Mapping[str, Any]) -> bool:
    """Whether other processes kept a benchmark's machine busy: no interval of its times tells how wrong they are."""
    return bool((environment.get("others") or 0) > BUSY * environment["cores"])


def busiest(found: Sequence[Look]) -> float | None:
    """The most cores that other processes kept busy in any look; None if the system does not tell."""
    return max((look.others for look in found if look.others is not None), default=None)


def warn_if_disturbed(found: Sequence[Look], reporter: Reporter, consequence: str) -> None:
    """Say how many cores other processes kept busy, if too many, and what follows."""
    others = busiest(found)
    if disturbed({"others": others, "cores": cores()}):
        reporter.warn(f"other processes kept {others:.1f} of {cores()} cores busy: {consequence}")


def looks(rounds: Sequence[Round], settings: Settings, threads: int | None, reporter: Reporter) -> list[Look]:
    """As many undisturbed looks as asked for; on a machine that is not quiet, all there are, disturbed ones too.

    Raises:
        MvpError: a process died.
    """
    quiet: list[Look] = []
    noisy: list[Look] = []
    with reporter.progress("timing") as step:
        while len(quiet) < settings.processes and len(noisy) <= SPARE:
            try:
                found = apart(look, rounds, settings, threads, len(quiet) + len(noisy))
            except ChildProcessError as error:
                raise MvpError(f"timing failed, perhaps for want of memory: {error}.") from error
            (noisy if disturbed({"others": found.others, "cores": cores()}) else quiet).append(found)
            step(len(quiet), settings.processes)
    return quiet if len(quiet) == settings.processes else [*quiet, *noisy]


def look(rounds: Sequence[Round], settings: Settings, threads: int | None, number: int) -> Look:
    """Time every round's models in this process, the ``number``-th."""
    with other_work() as others:
        found = [_session(each, settings, threads, number) for each in rounds]
    return Look(found, others[0] if others else None)


def _session(asked: Round, settings: Settings, threads: int | None, number: int) -> list[Session]:
    with ExitStack() as stack:
        runners = [
            stack.enter_context(closing(open_runner(path, runtime, threads=threads, device=device)))
            for path, runtime, device in asked.models
        ]
        if not runners:
            return []
        images = noise(runners[0], asked.batch, asked.seed) if asked.images is None else asked.images
        return session(runners, images, settings, first=number)


def noise(runner: Runner, size: int, seed: int) -> np.ndarray:
    """A batch of the runner's shape, float32 [size, channels, H, W]."""
    return np.random.default_rng(seed).standard_normal((size, *runner.image_shape), np.float32)
