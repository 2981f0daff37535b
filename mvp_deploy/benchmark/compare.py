"""From models to the rows of a benchmark: open, check parity, time in turns, relate to the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mvp_deploy.base.environment import cores, environment, other_work
from mvp_deploy.base.errors import DeployError, ExitCode
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.measure import Settings, Timing, measure, speed_up
from mvp_deploy.benchmark.memory import memory
from mvp_deploy.benchmark.runner import Runner, logits, open_runner
from mvp_deploy.benchmark.statistics import Interval
from mvp_deploy.exporters.parity import check_parity, compare

BUSY = 0.1  # share of the cores that other processes may use before times are called disturbed


@dataclass(frozen=True, eq=False)
class Expected:
    """What a model must give before it is timed: logits [n, classes] for images float32 [n, 3, H, W]."""

    images: np.ndarray
    logits: np.ndarray
    tolerance: float
    exact: bool = True  # of every image; reduced precisions may have strays (exporters.parity)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model to time. ``baseline``: its index among the candidates, of the model it is compared with."""

    model: str
    precision: str
    path: Path
    runtime: str
    baseline: int
    accuracy: float | None = None
    expected: Expected | None = None  # None: bare files, of which only finite outputs can be asked
    device: str | None = None  # None: the one asked for all


@dataclass(frozen=True)
class Row:
    """What was found for one model at one batch size; ``error`` says why there is no ``timing``."""

    model: str
    precision: str
    runtime: str
    batch: int
    size: int  # bytes of the file
    accuracy: float | None
    baseline: str  # the model it is compared with
    details: dict[str, str]
    timing: Timing | None = None
    speed_up: Interval | None = None  # against the baseline; None for a baseline itself
    parity: float | None = None  # relative to the largest reference logit
    memory: int | None = None  # bytes, as benchmark.memory says
    error: str | None = None
    code: ExitCode = ExitCode.OK


@dataclass(frozen=True)
class Benchmark:
    rows: tuple[Row, ...]
    environment: dict[str, object]  # the machine; ``others``: cores that other processes kept busy, None where not told

    def to_json(self) -> dict[str, Any]:
        return {"environment": self.environment, "rows": [asdict(row) for row in self.rows]}

    def failure(self) -> DeployError | None:
        """What to end the command with, when a row could not be measured."""
        failed = [row for row in self.rows if row.error]
        if not failed:
            return None
        first = failed[0]
        return DeployError(
            f"{len(failed)} of {len(self.rows)} rows could not be measured; the first, "
            f"{f'{first.model} {first.precision}'.strip()} at batch {first.batch}: {first.error}",
            first.code,
        )


def benchmark(
    candidates: Sequence[Candidate],
    batches: Sequence[int],
    settings: Settings,
    *,
    threads: int | None,
    device: str,
    seed: int = 0,
    reporter: Reporter,
) -> Benchmark:
    """Time all candidates at each batch size, in turns. A model whose parity does not hold is not timed.

    seed: of the noise that bare files are run on.
    """
    rows: list[Row] = []
    disturbed: list[float] = []
    for size in batches:
        with ExitStack() as stack:
            found = [_opened(index, candidates, size, threads, device, seed) for index in range(len(candidates))]
            runners = [stack.enter_context(closing(runner)) for _, runner in found if runner is not None]
            timings: Iterator[Timing] = iter(())
            others: list[float] = []
            if runners:
                images = _images(runners[0], candidates, size, seed)
                with reporter.progress(f"timing at batch {size}") as step, other_work() as others:
                    timings = iter(measure(runners, images, settings, progress=step))
            timed = [replace(row, timing=next(timings) if runner else None) for row, runner in found]
        rows += [_related(row, timed[candidate.baseline]) for row, candidate in zip(timed, candidates, strict=True)]
        disturbed += others
    busiest = round(max(disturbed), 2) if disturbed else None
    if busiest and busiest > BUSY * cores():
        reporter.warn(
            f"other processes kept {busiest:.1f} of {cores()} cores busy: times are longer than on a quiet machine, "
            "most for the models that need all cores. Measure again when nothing else runs."
        )
    return Benchmark(tuple(rows), environment() | {"others": busiest})


def _opened(
    index: int, candidates: Sequence[Candidate], size: int, threads: int | None, device: str, seed: int
) -> tuple[Row, Runner | None]:
    """A candidate's row and its runner; without one, the row says why. Others can then still be measured."""
    candidate = candidates[index]
    device = candidate.device or device
    row = _row(candidate, candidates[candidate.baseline], size)
    runner = None
    try:
        runner = open_runner(candidate.path, candidate.runtime, threads=threads, device=device)
        parity = _parity(runner, candidate, size, seed)
        took = memory(candidate.path, candidate.runtime, batch_size=size, threads=threads, device=device)
        named = replace(row, runtime=runner.name, details=dict(runner.details), parity=parity, memory=took)
        return named, runner
    except Exception as error:  # whatever a runtime raises; it must not look like success
        if runner is not None:
            runner.close()
        if isinstance(error, DeployError):
            return replace(row, error=str(error), code=error.code), None
        return replace(row, error=f"{type(error).__name__}: {error}", code=ExitCode.ERROR), None


def _related(row: Row, baseline: Row) -> Row:
    """The row with its speed-up, where there is another model to compare with and both were timed."""
    if row is baseline or row.timing is None or baseline.timing is None:
        return row
    return replace(row, speed_up=speed_up(baseline.timing, row.timing))


def _row(candidate: Candidate, baseline: Candidate, size: int) -> Row:
    return Row(
        model=candidate.model,
        precision=candidate.precision,
        runtime=" ".join(filter(None, (candidate.runtime, candidate.device))),
        batch=size,
        size=size_of(candidate.path),
        accuracy=candidate.accuracy,
        baseline=f"{baseline.model} {baseline.precision}".strip(),
        details={},
    )


def _parity(runner: Runner, candidate: Candidate, size: int, seed: int) -> float | None:
    """Refuse a model that does not give what it should; gives the difference, where there is a reference."""
    expected = candidate.expected
    if expected is None:
        found = logits(runner, _images(runner, [], size, seed), size)
        compare(found, found)  # refuses what is not finite
        return None
    got = logits(runner, expected.images, size)
    return check_parity(expected.logits, got, expected.tolerance, exact=expected.exact).relative


def _images(runner: Runner, candidates: Sequence[Candidate], size: int, seed: int) -> np.ndarray:
    """A batch to time with: held-out images where there are any, else noise of the runner's shape."""
    for candidate in candidates:
        if candidate.expected is not None:
            images = candidate.expected.images
            return np.ascontiguousarray(images[np.arange(size) % len(images)])
    return np.random.default_rng(seed).standard_normal((size, *runner.image_shape), np.float32)


def size_of(path: Path) -> int:
    """Bytes of a model's file, with the weights that some formats keep beside it (OpenVINO's .bin)."""
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
