"""Gates against the last accepted run: worse than it, and by more than the noise of both, fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvp_deploy.base.errors import ExitCode, InputError
from mvp_deploy.base.formats import Malformed, damaged, parse, read_json
from mvp_deploy.benchmark.statistics import Interval, Limit, at_least, at_most, paired_change, unpaired_change
from mvp_deploy.pipeline.gates import (
    NOISY,
    Facts,
    Verdict,
    disturbed,
    exact,
    model_name,
    pruned_models,
    pruned_rows,
    row_name,
    verdict,
)

SCHEMA = 1  # of report.json


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A report.json. Raises InputError if it is not one, or of another schema."""
    from mvp_deploy.pipeline.reportfile import Report  # imports torch

    path, cure = Path(path), "make it again with `mvp-deploy run`"
    report = read_json(path, dict, cure=cure)
    if report.get("schema") != SCHEMA:
        raise InputError(
            f"{path} is not a report.json that this version reads (its schema is {str(report.get('schema'))[:20]} and "
            f"not {SCHEMA}): {cure}."
        )
    try:
        parse(Report, report)
        for facts in report["tasks"].values():
            compare(facts, facts, 0.0)  # not a report if it cannot be compared with itself
    except (Malformed, ValueError, ArithmeticError) as error:
        raise damaged(path, str(error)[:200], cure) from error
    return report


def compare(now: Facts, before: Facts, allowed: float) -> list[Verdict]:
    """Regressions and the rest, for every model and measurement both runs have.

    Accuracy by the sampling noise of the held-out images: where both runs saw the same ones, only of those that one of
    them gets right and the other wrong (McNemar 1947). Size, and latency on the same machine, may grow by the share
    ``allowed``; on another machine the speed-up is compared instead.
    """
    if not before.get("models"):  # it failed on the way
        return []
    return [*_models(now, before, allowed), *_times(now, before, allowed)]


def _models(now: Facts, before: Facts, allowed: float) -> Iterator[Verdict]:
    old = {model_name(model): model for model in pruned_models(before)}
    for model in pruned_models(now):
        name = model_name(model)
        if name not in old:
            continue
        change = _accuracy_change(model, now, old[name], before)
        yield _regression("accuracy change", name, change, at_least(0.0), ExitCode.ACCURACY)
        growth = model["bytes"] / old[name]["bytes"]
        yield exact("size growth", name, growth, at_most(1 + allowed), ExitCode.LATENCY)


def _accuracy_change(model: Facts, now: Facts, old: Facts, before: Facts) -> Interval:
    """By how much the accuracy (0..1) changed."""
    tests = before["images"]["test"], now["images"]["test"]
    if "wrong" in old and now.get("held_out") and now["held_out"] == before.get("held_out"):
        return paired_change(*(_right(each, n) for each, n in zip((old, model), tests, strict=True)))
    return unpaired_change(old["accuracy"], tests[0], model["accuracy"], tests[1])


def _right(model: Facts, images: int) -> np.ndarray:
    """Which of the held-out images the model names rightly, bool [images]."""
    return ~np.isin(np.arange(images), model["wrong"])


def _times(now: Facts, before: Facts, allowed: float) -> Iterator[Verdict]:
    old = {row_name(row): row for row in pruned_rows(before)}
    same = all(now["times"]["environment"][key] == before["times"]["environment"][key] for key in ("cpu", "cores"))
    noisy = disturbed(now) or disturbed(before)
    for row in pruned_rows(now):
        other = old.get(row_name(row))
        if other is None:
            continue
        if same:
            gate, growth = "latency growth", _median(row).over(_median(other))
        elif row["speed_up"] and other["speed_up"]:
            gate, growth = "speed-up loss", Interval(**other["speed_up"]).over(Interval(**row["speed_up"]))
        else:
            continue
        yield _regression(gate, row_name(row), growth, at_most(1 + allowed), ExitCode.LATENCY, noisy)


def _median(row: Facts) -> Interval:
    return Interval(**row["timing"]["median"])


def _regression(gate: str, subject: str, found: Interval, limit: Limit, code: ExitCode, noisy: bool = False) -> Verdict:
    """Failed only where all of the interval is beyond the limit: what noise may explain is not a regression."""
    if not limit.broken_by(found):
        return verdict(gate, subject, found, limit, "met", code)
    if noisy:
        return verdict(gate, subject, found, limit, "too noisy to tell", code, NOISY)
    return verdict(gate, subject, found, limit, "failed", code)
