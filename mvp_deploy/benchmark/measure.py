"""Timing several models fairly: they take turns in short windows, so that other load hits all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from mvp_deploy.benchmark.runner import Runner
from mvp_deploy.benchmark.statistics import Interval, median_interval

Clock = Callable[[], float]


@dataclass(frozen=True)
class Settings:
    """How long and how closely to look."""

    duration: float = 10.0  # seconds of timed runs for each model, at most
    window: float = 0.05  # seconds a model runs before the next has its turn (one run at least)
    warm_up: float = 0.3  # seconds each model runs untimed at first
    min_rounds: int = 10  # before the spread is judged
    spread: float = 0.02  # stable: each median's 95 % interval is within this share of it, to both sides,
    scatter: float = 0.2  # and four fifths of the windows' medians lie within this share of it


DEFAULT = Settings()


@dataclass(frozen=True)
class Timing:
    """Latencies of one model in milliseconds, at one batch size."""

    median: Interval  # over the windows' medians
    p50: float  # this and the rest: over all runs
    p90: float
    p95: float
    p99: float
    mean: float
    throughput: float  # images per second, from the mean
    runs: int
    windows: tuple[float, ...]  # the median latency in each of its turns
    stable: bool  # the limit in time came only after the medians were known closely enough
    parts: dict[str, float] = field(default_factory=dict)  # medians of what the runtime tells of its own time


def measure(
    runners: Sequence[Runner],
    batch: np.ndarray,
    settings: Settings = DEFAULT,
    *,
    clock: Clock = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Time the runners, in turn, on the same batch of float32 images [b, 3, H, W].

    Rounds go A B C, C B A, A B C, … so that slow drift is shared. The first run of a turn is not timed:
    caches hold the previous model's weights, and its threads may still be spinning. It ends when all medians
    are stable, or each model has used ``settings.duration``.
    """
    records = [_Record() for _ in runners]
    for runner in runners:
        runner.prepare(batch)
        _turn(runner, settings.warm_up, _Record(), clock)
    with _no_collection():
        while not _done(records, settings):
            order = list(zip(runners, records, strict=True))
            for runner, record in order if len(records[0].windows) % 2 == 0 else reversed(order):
                _turn(runner, settings.window, record, clock)
            if progress is not None:
                progress(round(min(sum(r.spent) for r in records) * 10), round(settings.duration * 10))
    return [_timing(record, len(batch), _stable([record], settings)) for record in records]


def speed_up(baseline: Timing, candidate: Timing) -> Interval:
    """How many times faster the candidate is: the ratio of two windows' medians, and its median over rounds.

    The two windows lie next to each other in time, so that load which comes and goes cancels out.
    """
    rounds = min(len(baseline.windows), len(candidate.windows))
    return median_interval(np.array(baseline.windows[:rounds]) / np.array(candidate.windows[:rounds]))


class _Record:
    def __init__(self) -> None:
        self.seconds: list[float] = []  # of each run
        self.windows: list[float] = []  # the median of each turn
        self.spent: list[float] = []  # each turn's timed seconds
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
    record.windows.append(float(np.median(times)))
    record.spent.append(now - begin)


def _stable(records: Sequence[_Record], settings: Settings) -> bool:
    if len(records[0].windows) < settings.min_rounds:
        return False
    return all(
        median_interval(windows).spread <= settings.spread
        and np.subtract(*np.percentile(windows, [90, 10])) <= settings.scatter * np.median(windows)
        for windows in (np.array(record.windows) for record in records)
    )


def _done(records: Sequence[_Record], settings: Settings) -> bool:
    rounds = len(records[0].windows)
    if rounds >= 3 and min(sum(r.spent) for r in records) >= settings.duration:
        return True
    return rounds % 5 == 0 and _stable(records, settings)


def _timing(record: _Record, batch_size: int, stable: bool) -> Timing:
    milliseconds = 1000 * np.array(record.seconds)
    windows = 1000 * np.array(record.windows)
    p50, p90, p95, p99 = map(float, np.percentile(milliseconds, [50, 90, 95, 99]))
    mean = float(milliseconds.mean())
    return Timing(
        median=median_interval(windows),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        mean=mean,
        throughput=1000 * batch_size / mean,
        runs=len(milliseconds),
        windows=tuple(windows.tolist()),
        stable=stable,
        parts={name: 1000 * float(np.median(values)) for name, values in record.parts.items()},
    )


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
