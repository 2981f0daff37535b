"""From models to the rows of a benchmark: check parity, time in fresh processes, relate to the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mvp_deploy.base.environment import environment
from mvp_deploy.base.errors import EnvironmentMissing, ExitCode, MvpError, error_of
from mvp_deploy.base.formats import Amount, Count, Share, Size
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.cold import Cold, Sustained, cold, sustain
from mvp_deploy.benchmark.looks import Round, busiest, disturbed, looks, noise, warn_if_disturbed
from mvp_deploy.benchmark.measure import Settings, Timing, speed_up, timing
from mvp_deploy.benchmark.runner import Runner, logits, open_runner
from mvp_deploy.benchmark.statistics import Interval
from mvp_deploy.benchmark.table import record, text
from mvp_deploy.exporters.parity import check_parity, compare
from mvp_deploy.exporters.protocol import size_of


@dataclass(frozen=True, eq=False)
class Expected:
    """What a model must give before it is timed: logits [n, classes] for images float32 [n, 3, H, W]."""

    images: np.ndarray
    logits: np.ndarray
    tolerance: float
    exact: bool = True  # of every image; reduced precisions may have strays (exporters.parity)
    labels: np.ndarray | None = None  # int64 [n], where they are known


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model to time. ``baseline``: its index among the candidates, of the model it is compared with."""

    model: str
    precision: str
    path: Path
    runtime: str
    baseline: int
    accuracy: float | None = None
    tested: int | None = None  # images the accuracy was measured on
    expected: Expected | None = None  # None: bare files, of which only finite outputs can be asked
    device: str | None = None  # None: the one asked for all


@dataclass(frozen=True)
class Row:
    """What was found for one model at one batch size; ``error`` says why there is no ``timing``."""

    model: str
    precision: str
    runtime: str
    batch: Size
    size: Count  # bytes of the file
    accuracy: Share | None  # as measured when the file was made, on ``tested`` images
    tested: Count | None
    baseline: str  # the model it is compared with
    details: dict[str, str]
    timing: Timing | None = None
    speed_up: Interval | None = None  # against the baseline; None for a baseline itself
    parity: Amount | None = None  # here, on the bundle's samples
    agreement: Share | None = None  # share of the samples that get PyTorch's class here
    accuracy_here: Share | None = None  # on the bundle's samples, measured here
    samples: Count | None = None  # how many those are
    memory: Count | None = None  # bytes, as in ``cold``
    cold: Cold | None = None  # in a process of its own
    sustained: Sustained | None = None  # where it was asked for
    error: str | None = None
    code: ExitCode = ExitCode.OK

    @property
    def ran_in(self) -> str:
        """The runtime's version and threads, as far as its runner told them."""
        threads = self.details.get("threads")
        told = threads and f"{threads} thread{'s' * (threads != '1')}"
        return ", ".join(filter(None, (self.details.get("runtime"), told)))


@dataclass(frozen=True)
class Benchmark:
    """What was measured: a row for each model at each batch size, and the machine.

    environment: ``others`` is how many cores other processes kept busy, None where the system does not tell.
    """

    rows: tuple[Row, ...]
    environment: dict[str, Any]

    def __str__(self) -> str:
        return text(self)

    __repr__ = __str__

    def records(self) -> list[dict[str, Any]]:
        """A flat dictionary for each row, with ``model``, ``batch``, ``p50_ms``, ``speed_up``, ``error`` and others.

        ``accuracy`` is of the export's held-out images, ``tested`` of them; ``accuracy_here`` was measured on this
        machine, on the bundle's ``samples``.
        """
        return [record(row) for row in self.rows]

    def to_pandas(self) -> Any:
        """`records` as a pandas DataFrame.

        Raises:
            EnvironmentMissing: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise EnvironmentMissing(f"to_pandas needs pandas ({error}): pip install pandas.") from error
        return DataFrame(self.records())

    @property
    def disturbed(self) -> bool:
        """Whether other work disturbed the measurement: such times are neither packed nor kept."""
        return disturbed(self.environment)

    def to_json(self) -> dict[str, Any]:
        return {"environment": self.environment, "rows": [asdict(row) for row in self.rows]}

    def failure(self) -> MvpError | None:
        """What to end the command with, when a row could not be measured."""
        failed = [row for row in self.rows if row.error]
        if not failed:
            return None
        first = failed[0]
        return error_of(
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
    sustained: float | None = None,
    reporter: Reporter,
) -> Benchmark:
    """Time all candidates at each batch size, in turns. A model whose parity does not hold is not timed.

    Args:
        seed: of the noise that bare files are run on.
        sustained: seconds that each model is then run without a pause.
    """
    checked = [[_checked(each, candidates, size, threads, device, seed) for each in candidates] for size in batches]
    rounds = [_round(rows, candidates, size, device, seed) for size, rows in zip(batches, checked, strict=True)]
    found = looks(rounds, settings, threads, reporter) if any(each.models for each in rounds) else []
    related: list[Row] = []
    for number, (size, rows) in enumerate(zip(batches, checked, strict=True)):
        sessions = zip(*(look.sessions[number] for look in found), strict=True)  # of each timed model
        timed = [row if row.error else replace(row, timing=timing(next(sessions), size, settings)) for row in rows]
        if sustained is not None:
            timed = _sustained(timed, candidates, sustained, threads, device, reporter)
        related += [_related(row, timed[candidate.baseline]) for row, candidate in zip(timed, candidates, strict=True)]
    consequence = (
        "times are longer than on a quiet machine, most for the models that need all cores. Do not use them: measure "
        "again when nothing else runs."
    )
    warn_if_disturbed(found, reporter, consequence)
    return Benchmark(tuple(related), environment() | {"others": busiest(found)})


def _checked(
    candidate: Candidate, candidates: Sequence[Candidate], size: int, threads: int | None, device: str, seed: int
) -> Row:
    """A candidate's row before it is timed; ``error`` says why it cannot be. Others can then still be measured."""
    device = candidate.device or device
    row = _row(candidate, candidates[candidate.baseline], size)
    try:
        with closing(open_runner(candidate.path, candidate.runtime, threads=threads, device=device)) as runner:
            named = replace(row, runtime=runner.name, details=dict(runner.details))
            named = replace(named, **_checks(runner, candidate, size, seed))
        alone = cold(candidate.path, candidate.runtime, batch_size=size, threads=threads, device=device)
        return replace(named, cold=alone, memory=None if alone is None else alone.memory)
    except Exception as error:  # whatever a runtime raises; it must not look like success
        if isinstance(error, MvpError):
            return replace(row, error=str(error), code=error.code)
        return replace(row, error=f"{type(error).__name__}: {error}", code=ExitCode.ERROR)


def _round(rows: Sequence[Row], candidates: Sequence[Candidate], size: int, device: str, seed: int) -> Round:
    """What is timed at a batch size, on held-out images where there are any."""
    good = [candidate for candidate, row in zip(candidates, rows, strict=True) if not row.error]
    known = next((candidate.expected.images for candidate in candidates if candidate.expected is not None), None)
    images = None if known is None else np.ascontiguousarray(known[np.arange(size) % len(known)])
    return Round([(each.path, each.runtime, each.device or device) for each in good], size, images, seed)


def _sustained(
    rows: Sequence[Row],
    candidates: Sequence[Candidate],
    seconds: float,
    threads: int | None,
    device: str,
    reporter: Reporter,
) -> list[Row]:
    """The rows that were timed, each run for so many seconds."""
    found = []
    for row, each in zip(rows, candidates, strict=True):
        if row.timing is None:
            found.append(row)
            continue
        reporter.say(f"running {row.model} {row.precision} at batch {row.batch} for {seconds:.0f} s")
        on = each.device or device
        long = sustain(each.path, each.runtime, seconds, batch_size=row.batch, threads=threads, device=on)
        found.append(replace(row, sustained=long))
    return found


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
        tested=candidate.tested,
        baseline=f"{baseline.model} {baseline.precision}".strip(),
        details={},
    )


def _checks(runner: Runner, candidate: Candidate, size: int, seed: int) -> dict[str, Any]:
    """Refuse a model that does not give what it should; gives what a row says of it, where there is a reference."""
    expected = candidate.expected
    if expected is None:
        given = logits(runner, noise(runner, size, seed), size)
        compare(given, given)  # refuses what is not finite
        return {}
    got = logits(runner, expected.images, size)
    parity = check_parity(expected.logits, got, expected.tolerance, exact=expected.exact)
    found = {"parity": parity.relative, "agreement": parity.agreement}
    if expected.labels is None:
        return found
    right = float((got.argmax(1) == expected.labels).mean())
    return {**found, "accuracy_here": right, "samples": len(expected.labels)}
