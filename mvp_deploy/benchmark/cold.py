"""What a model takes in a process of its own: to load, for its first image, in memory, in energy, and for minutes.

In the benchmark's own process the models share an allocator, one's peak hides the other's, and nothing is ever cold.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvp_deploy.base import energy
from mvp_deploy.base.environment import peak_memory, resident_memory
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.formats import Amount, Count
from mvp_deploy.base.processes import apart
from mvp_deploy.benchmark.runner import Runner, module_of, open_runner

RUNS = 3
METERED = 1.0  # seconds of inferences that energy is measured over
PART = 0.1  # share of a sustained run at its beginning and at its end that are compared


@dataclass(frozen=True)
class Cold:
    """What a fresh process found, the runtime's own libraries loaded before."""

    load_ms: Amount  # from the file to a model that is ready
    first_ms: Amount  # the first batch
    memory: Count | None  # bytes that loading and running the model add; None where the system does not tell
    peak: Count | None  # bytes of the whole process at its largest
    energy_mj: Amount | None  # millijoules for an image, of all that the board's sensor covers; None without a sensor


@dataclass(frozen=True)
class Sustained:
    """Inferences without a pause: how fast at the beginning, and how fast once the board is warm."""

    seconds: Amount
    first: Amount  # images per second in the first tenth of the time
    last: Amount  # and in the last

    def __str__(self) -> str:
        return f"{self.first:.1f} images/s at first, {self.last:.1f} after {self.seconds:.0f} s"


def cold(path: Path, runtime: str, *, batch_size: int, threads: int | None, device: str) -> Cold | None:
    """Load the model in a fresh process and run it a few times; None where that process fails.

    Memory on a GPU is not counted.
    """
    try:
        return apart(_cold, str(path), runtime, batch_size, threads, device, quiet=True)
    except Exception:  # whatever a runtime raises: the benchmark itself tells it
        return None


def sustain(
    path: Path, runtime: str, seconds: float, *, batch_size: int, threads: int | None, device: str
) -> Sustained:
    """Run the model for that long in a fresh process.

    Raises:
        MvpError: the process died.
    """
    try:
        return apart(_sustain, str(path), runtime, seconds, batch_size, threads, device, quiet=True)
    except ChildProcessError as error:
        raise MvpError(f"the sustained run failed, perhaps for want of memory: {error}.") from error


def _cold(path: str, runtime: str, batch_size: int, threads: int | None, device: str) -> Cold:
    module_of(runtime)
    before, start = resident_memory(), time.perf_counter()
    runner = open_runner(Path(path), runtime, threads=threads, device=device)
    loaded = time.perf_counter()
    runner.prepare(np.zeros((batch_size, *runner.image_shape), np.float32))
    began = time.perf_counter()
    runner.run()
    first = time.perf_counter()
    for _ in range(RUNS - 1):
        runner.run()
    peak = peak_memory()
    grown = None if before is None or peak is None else max(0, peak - before)
    return Cold(1000 * (loaded - start), 1000 * (first - began), grown, peak, _energy(runner, batch_size))


def _energy(runner: Runner, batch_size: int) -> float | None:
    """Millijoules for an image, over inferences that follow each other."""
    if not energy.is_told():
        return None
    runs, end = 0, time.perf_counter() + METERED
    with energy.metered() as joules:
        while time.perf_counter() < end:
            runner.run()
            runs += 1
    return 1000 * joules[0] / (runs * batch_size) if joules else None


def _sustain(path: str, runtime: str, seconds: float, batch_size: int, threads: int | None, device: str) -> Sustained:
    runner = open_runner(Path(path), runtime, threads=threads, device=device)
    runner.prepare(np.zeros((batch_size, *runner.image_shape), np.float32))
    runner.run()
    ends: list[float] = []
    start = time.perf_counter()
    while not ends or ends[-1] - start < seconds:
        runner.run()
        ends.append(time.perf_counter())
    return of_ends(np.array(ends) - start, batch_size)


def of_ends(ends: np.ndarray, batch_size: int) -> Sustained:
    """From the seconds at which each run ended, rising, since the first began."""
    total = float(ends[-1])
    early, late = int((ends <= PART * total).sum()), int((ends > (1 - PART) * total).sum())
    return Sustained(total, batch_size * max(early, 1) / (PART * total), batch_size * late / (PART * total))
