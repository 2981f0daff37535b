"""Gates against the last accepted run: worse than it, and by more than the noise of both, fails."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import DeployError, ExitCode
from mvp_deploy.pipeline.gates import (
    NOISY,
    Facts,
    Outcome,
    Verdict,
    at_most,
    disturbed,
    exact,
    model_name,
    pruned_models,
    pruned_rows,
    row_name,
)

SCHEMA = 1  # of report.json
NORMAL_95 = 1.96  # half a 95 % interval, in standard deviations


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A report.json. Raises DeployError (INPUT) where it is none, or of another schema."""
    path = Path(path)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        found = report["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeployError(f"{path} is no report.json of `mvp-deploy run` ({error!r}).") from error
    if found != SCHEMA:
        raise DeployError(f"{path} has report schema {found}, this version reads {SCHEMA}: make it again.")
    return dict(report)


def compare(now: Facts, before: Facts, allowed: float) -> list[Verdict]:
    """Regressions and the rest, for every model and measurement both runs have.

    Accuracy by the sampling noise of the held-out images. Size, and latency on the same machine, may grow by the
    share ``allowed``; on another machine latency says nothing, and the speed-up is compared in its place.
    """
    return [*_models(now, before, allowed), *_times(now, before, allowed)]


def _models(now: Facts, before: Facts, allowed: float) -> Iterator[Verdict]:
    old = {model_name(model): model for model in pruned_models(before)}
    for model in pruned_models(now):
        name = model_name(model)
        if name not in old:
            continue
        change = model["accuracy"] - old[name]["accuracy"]
        noise = NORMAL_95 * math.sqrt(_variance(model, now) + _variance(old[name], before))
        yield _verdict("accuracy change", name, change, change - noise, change + noise, 0.0, ExitCode.ACCURACY)
        growth = model["bytes"] / old[name]["bytes"]
        outcome = at_most(growth, growth, 1 + allowed)
        yield exact("size growth", name, growth, 1 + allowed, outcome, ExitCode.LATENCY)


def _variance(model: Facts, facts: Facts) -> float:
    """Of an accuracy (0..1) on so many held-out images."""
    return float(model["accuracy"] * (1 - model["accuracy"]) / facts["images"]["test"])


def _times(now: Facts, before: Facts, allowed: float) -> Iterator[Verdict]:
    old = {row_name(row): row for row in pruned_rows(before)}
    same = all(now["times"]["environment"][key] == before["times"]["environment"][key] for key in ("cpu", "cores"))
    for row in pruned_rows(now):
        other = old.get(row_name(row))
        if other is None:
            continue
        if same:
            new, was, gate = row["timing"]["median"], other["timing"]["median"], "latency growth"
            value, low, high = new["value"] / was["value"], new["low"] / was["high"], new["high"] / was["low"]
        elif row["speed_up"] and other["speed_up"]:
            new, was, gate = row["speed_up"], other["speed_up"], "speed-up loss"
            value, low, high = was["value"] / new["value"], was["low"] / new["high"], was["high"] / new["low"]
        else:
            continue
        # Turned round, so that a regression is always a value below its limit.
        found = _verdict(gate, row_name(row), -value, -high, -low, -(1 + allowed), ExitCode.LATENCY)
        noisy = found.outcome == "failed" and (disturbed(now) or disturbed(before))
        outcome: Outcome = "too noisy to tell" if noisy else found.outcome
        advice = NOISY if noisy else ""
        yield Verdict(gate, found.subject, value, low, high, 1 + allowed, outcome, found.code, advice)


def _verdict(gate: str, subject: str, value: float, low: float, high: float, limit: float, code: ExitCode) -> Verdict:
    """Failed only where all of the interval lies below the limit: what noise may explain is no regression."""
    failed = high < limit
    outcome: Outcome = "failed" if failed else "met"
    return Verdict(gate, subject, value, low, high, limit, outcome, code if failed else ExitCode.OK)
