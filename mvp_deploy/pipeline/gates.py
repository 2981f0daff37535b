"""Limits a task must meet, judged on what was found; a latency by the interval of its measurement.

What was found of a task (``facts``) is a dict of JSON values, the same that report.json holds:
``metrics`` and ``images`` as run.json has them, ``models`` (each a ModelFile with ``bytes``) and ``times``
(environment and rows of a benchmark).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mvp_deploy.base.errors import ExitCode
from mvp_deploy.benchmark import looks
from mvp_deploy.benchmark.statistics import Interval, Limit, Outcome, at_least, at_most
from mvp_deploy.pipeline.config import GatesSection, LatencyLimit, SpeedUpLimit, Where

Facts = Mapping[str, Any]

NOISY = "give the benchmark a longer duration, and a machine without other work"


@dataclass(frozen=True)
class Verdict:
    """One gate's outcome. ``low`` and ``high``: the value's 95 % interval, equal to it if it has no noise."""

    gate: str  # as 'max_drop'
    subject: str  # as 'pruned int8 onnxruntime batch 1'
    value: float | None
    low: float | None
    high: float | None
    limit: float
    outcome: Outcome
    code: ExitCode  # what the command ends with; OK where met
    advice: str = ""


def judge(facts: Facts, gates: GatesSection) -> list[Verdict]:
    """Every gate's outcome, in the order of the file."""
    return list(_judge(facts, gates))


def _judge(facts: Facts, gates: GatesSection) -> Iterator[Verdict]:
    unpruned = facts["metrics"]["unpruned"]["accuracy"]
    for model in pruned_models(facts):
        name = model_name(model)
        accuracy, size = model["accuracy"], model["bytes"] / 1e6
        if gates.min_accuracy is not None:
            yield exact("min_accuracy", name, accuracy, at_least(gates.min_accuracy), ExitCode.ACCURACY)
        if gates.max_drop is not None:
            drop = round(unpruned - accuracy, 9)  # 0.98 - 0.96 is above 0.02 in floating point
            yield exact("max_drop", name, drop, at_most(gates.max_drop), ExitCode.ACCURACY)
        if gates.max_size_mb is not None:
            yield exact("max_size_mb", name, size, at_most(gates.max_size_mb), ExitCode.LATENCY)
        if gates.max_parity is not None and model["precision"] == "fp32":  # others differ by nature
            yield exact("max_parity", name, model["parity"], at_most(gates.max_parity), ExitCode.PARITY)
    yield from judge_times(facts["times"], gates.latency, gates.speed_up)


def judge_times(
    times: Facts,
    latency: Iterable[LatencyLimit],
    speed_up: Iterable[SpeedUpLimit],
    where: str = "",
    slowed: bool = False,
) -> Iterator[Verdict]:
    """The outcome of limits on times.

    Args:
        where: put before the gate's name: the device.
        slowed: whether its clocks were lowered, which only makes it slower, as other work does.
    """
    rows, busy = list(pruned_rows({"times": times})), disturbed({"times": times}) or slowed
    for most in latency:
        yield from (replace(found, gate=where + found.gate) for found in _latency(most, rows, busy))
    for least in speed_up:
        yield from (replace(found, gate=where + found.gate) for found in _speed_up(least, rows, busy))


def exact(gate: str, subject: str, value: float, limit: Limit, code: ExitCode) -> Verdict:
    """The verdict on a value without noise."""
    found = Interval.exact(value)
    return verdict(gate, subject, found, limit, limit.judge(found), code)


def verdict(
    gate: str, subject: str, found: Interval, limit: Limit, outcome: Outcome, code: ExitCode, advice: str = ""
) -> Verdict:
    code = ExitCode.OK if outcome == "met" else code
    return Verdict(gate, subject, found.value, found.low, found.high, limit.bound, outcome, code, advice)


def disturbed(facts: Facts) -> bool:
    """Whether other processes kept the machine busy during timing, which no interval of the times shows."""
    return looks.disturbed(facts["times"]["environment"])


def _latency(limit: LatencyLimit, rows: Iterable[Facts], busy: bool) -> Iterator[Verdict]:
    chosen = [row for row in rows if fits(limit, row)]
    for row in chosen:
        found, most = Interval(**row["timing"]["median"]), at_most(limit.at_most_ms)
        unsure = busy and not most.met_by(found)  # other work only ever makes it slower, so what is met is met
        yield _timed("latency", row, found, most, unsure)
    if not chosen:
        yield _unmeasured("latency", limit, limit.at_most_ms)


def _speed_up(limit: SpeedUpLimit, rows: Iterable[Facts], busy: bool) -> Iterator[Verdict]:
    chosen = [row for row in rows if fits(limit, row) and row["speed_up"]]
    for row in chosen:
        yield _timed("speed_up", row, Interval(**row["speed_up"]), at_least(limit.at_least), busy)
    if not chosen:
        yield _unmeasured("speed_up", limit, limit.at_least)


def _timed(gate: str, row: Facts, found: Interval, limit: Limit, unsure: bool) -> Verdict:
    outcome: Outcome = "too noisy to tell" if unsure else limit.judge(found)
    advice = NOISY if outcome == "too noisy to tell" else ""
    return verdict(gate, row_name(row), found, limit, outcome, ExitCode.LATENCY, advice)


def _unmeasured(gate: str, where: Where, limit: float) -> Verdict:
    asked = [where.precision, where.runtime, f"batch {where.batch}" if where.batch else None]
    subject = " ".join(part for part in ("pruned", *asked) if part)
    advice = "nothing that was timed fits it: see its runtime, precision and batch, and the benchmark's"
    return Verdict(gate, subject, None, None, None, limit, "not measured", ExitCode.LATENCY, advice)


def fits(where: Where, row: Facts) -> bool:
    """Whether a benchmark's row is what a limit is for. 'onnxruntime' fits 'onnxruntime CPU' too."""
    return (
        (where.runtime is None or where.runtime.lower() in (row["runtime"].lower(), row["runtime"].lower().split()[0]))
        and (where.precision is None or where.precision == row["precision"])
        and (where.batch is None or where.batch == row["batch"])
    )


def pruned_models(facts: Facts) -> Iterator[Facts]:
    return (model for model in facts["models"] if model["model"] == "pruned")


def pruned_rows(facts: Facts) -> Iterator[Facts]:
    """The timed rows of pruned models."""
    return (row for row in facts["times"]["rows"] if row["model"] == "pruned" and row["timing"])


def model_name(model: Facts) -> str:
    return f"pruned {model['precision']} {model['target']}"


def row_name(row: Facts) -> str:
    return f"pruned {row['precision']} {row['runtime']} batch {row['batch']}"
