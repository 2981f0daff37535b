"""Timing several models fairly: they take turns in short windows, so that other load hits all of them.

Windows of one process depend on each other: where memory lies, which cores it got, how warm they are. So the same is
done in several fresh processes, and each gives one value to the interval (Georges, Buytaert, Eeckhout, "Statistically
rigorous Java performance evaluation", OOPSLA 2007). How long to look is settled before: who stops once the interval is
narrow gets intervals that are too narrow.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from mvp_deploy.base import settings
from mvp_deploy.base.bounds import DURATION
from mvp_deploy.base.formats import Amount, Count, Within
from mvp_deploy.benchmark.config import Timed
from mvp_deploy.benchmark.runner import Runner
from mvp_deploy.benchmark.statistics import Interval, ratio_interval

Clock = Callable[[], float]
LEAST = 3  # windows of a model in each process, however long one takes


@dataclass(frozen=True)
class Settings(settings.Settings):
    """How long and how closely to look."""

    duration: Annotated[float, DURATION] = Timed.duration  # as there
    processes: Annotated[int, Within(2, 1000)] = 5  # fresh ones, one value each
    window: float = 0.05  # seconds a model runs before the next has its turn (one run at least)
    warm_up: float = 0.2  # seconds each model runs untimed at first, in each process
    spread: float = 0.05  # stable: the median's 95 % interval is within this share of it, to both sides


DEFAULT = Settings()


@dataclass(frozen=True)
class Session:
    """What one process found for one model."""

    seconds: tuple[float, ...]  # of each run
    windows: tuple[float, ...]  # milliseconds: the median of each turn
    parts: Mapping[str, Sequence[float]]  # seconds of each run, by part, as the runtime reports them

    @property
    def median(self) -> float:
        """Milliseconds."""
        return float(np.median(self.windows))


@dataclass(frozen=True)
class Timing:
    """Latencies of one model in milliseconds, at one batch size."""

    median: Interval  # of the processes' medians
    p50: Amount  # this and the rest: over all runs
    p90: Amount
    p95: Amount
    p99: Amount
    mean: Amount
    throughput: Amount  # images per second, from the mean
    runs: Count
    windows: tuple[tuple[Amount, ...], ...]  # for each process, the median latency in each turn
    stable: bool  # the processes agree closely enough
    parts: dict[str, Amount] = field(default_factory=dict)  # milliseconds: medians of what the runtime reports


def session(
    runners: Sequence[Runner],
    batch: np.ndarray,
    settings: Settings = DEFAULT,
    *,
    first: int = 0,
    clock: Clock = time.perf_counter,
) -> list[Session]:
    """One process's part: time the runners, in turn, on the same batch of float32 images [b, 3, H, W].

    Rounds go A B C, C B A, A B C, … so that slow drift is shared. The first run of a turn is not timed: caches hold the
    previous model's weights, and its threads may still be spinning.

    Args:
        first: the number of the process; in odd ones the last runner begins.
    """
    records = [_Record() for _ in runners]
    for runner in runners:
        runner.prepare(batch)
        _turn(runner, settings.warm_up, _Record(), clock)
    with _no_collection():
        while not _enough(records, settings):
            order = list(zip(runners, records, strict=True))
            for runner, record in order if (len(records[0].windows) + first) % 2 == 0 else reversed(order):
                _turn(runner, settings.window, record, clock)
    return [Session(tuple(record.seconds), tuple(record.windows), record.parts) for record in records]


def timing(sessions: Sequence[Session], batch_size: int, settings: Settings = DEFAULT) -> Timing:
    """What several processes found for one model."""
    milliseconds = 1000 * np.concatenate([each.seconds for each in sessions])
    p50, p90, p95, p99 = map(float, np.percentile(milliseconds, [50, 90, 95, 99]))
    mean = float(milliseconds.mean())
    median = ratio_interval([each.median for each in sessions])
    parts = {name: np.concatenate([each.parts[name] for each in sessions]) for name in sessions[0].parts}
    return Timing(
        median=median,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        mean=mean,
        throughput=1000 * batch_size / mean,
        runs=len(milliseconds),
        windows=tuple(each.windows for each in sessions),
        stable=median.spread <= settings.spread,
        parts={name: 1000 * float(np.median(values)) for name, values in parts.items()},
    )


def speed_up(baseline: Timing, candidate: Timing) -> Interval:
    """How many times faster the candidate is: in each process the ratio of two windows, its median over rounds.

    The two windows lie next to each other in time, so that load which comes and goes cancels out.
    """
    return speed_up_of(baseline.windows, candidate.windows)


def speed_up_of(slower: Sequence[Sequence[float]], faster: Sequence[Sequence[float]]) -> Interval:
    """The same of windows: for each process, milliseconds in each turn."""
    return ratio_interval([_ratio(*pair) for pair in zip(slower, faster, strict=True)])


def _ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    rounds = min(len(slower), len(faster))
    return float(np.median(np.array(slower[:rounds]) / np.array(faster[:rounds])))


class _Record:
    def __init__(self) -> None:
        self.seconds: list[float] = []  # of each run
        self.windows: list[float] = []  # the median of each turn, in milliseconds
        self.spent = 0.0  # timed seconds
        self.parts: dict[str, list[float]] = {}


def _turn(runner: Runner, seconds: float, record: _Record, clock: Clock) -> None:
    runner.run()
    times: list[float] = []
    now = begin = clock()
    while not times or now - begin < seconds:
        start = clock()
        parts = runner.run()
        now = clock()
        times.append(now - start)
        for name, part in (parts or {}).items():
            record.parts.setdefault(name, []).append(part)
    record.seconds += times
    record.windows.append(1000 * float(np.median(times)))
    record.spent += now - begin


def _enough(records: Sequence[_Record], settings: Settings) -> bool:
    share = settings.duration / settings.processes
    return len(records[0].windows) >= LEAST and min(record.spent for record in records) >= share


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the measurement."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
