"""docs/structure-comparison.md from the results of compare_torch_pruning.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from models import MODELS

from mvp_deploy.base.files import atomic_write

Result = dict[str, Any]


def no_end(result: Result) -> bool:
    """Whether pruning was stopped because it took too long."""
    return "no end" in result.get("failed", "")


def write_table(results: dict[str, Result], path: Path, how: str, limit: int) -> None:
    """Write the summary, where Torch-Pruning stays ahead, and one row per model; `how` says how it was measured."""
    done = {name: results[name] for name in MODELS if name in results and "failed" not in results[name]}
    sides = {side: [r[side] for r in done.values()] for side in ("ours", "theirs")}
    unmeasured = [name for name in MODELS if name in results and "failed" in results[name]]
    both = [r for r in done.values() if all("error" in r[side] for side in sides)]

    def row(what: str, value: Callable[[list[Result]], str], of: Result = sides) -> str:
        return f"| {what} | {value(of['ours'])} | {value(of['theirs'])} |"

    def median(key: str) -> Callable[[list[Result]], str]:
        return lambda rows: f"{np.median([r[key] for r in rows]):.2f}"

    shared = {side: [r[side] for r in both] for side in sides}
    lines = [
        "# Beside Torch-Pruning 1.6.1",
        "",
        *how.strip().splitlines(),
        "",
        "| | mvp-deploy | Torch-Pruning, best of three settings |",
        "| --- | --: | --: |",
        row("pruned and running", lambda rows: f"{sum('error' in r for r in rows)} of {len(rows)}"),
        row("equal to the silenced model (1e-5)", lambda rows: f"{sum(r.get('error', 1) < 1e-5 for r in rows)}"),
        row("equal, and 95 % of the body's weights cut", lambda rows: f"{sum(map(_full, rows))}"),
        row(f"no end within {limit} s", lambda rows: f"{sum(map(no_end, rows))}"),
        row(f"median seconds (the {len(both)} both run)", median("seconds"), shared),
        row(f"median peak memory, MB (the {len(both)} both run)", median("peak_mb"), shared),
        row(
            f"seconds in all (the {len(both)} both run)", lambda rows: f"{sum(r['seconds'] for r in rows):.0f}", shared
        ),
        "",
        *_behind(done),
        "",
        "## Every model",
        "",
        "Error, share of the body's weights cut, seconds.",
        *[f"Left out, as finding out what was kept took too long: {', '.join(unmeasured)}."] * bool(unmeasured),
        "",
        "| model | mvp-deploy | Torch-Pruning |",
        "| --- | --- | --- |",
        *(f"| {name} | {_cell(r['ours'])} | {_cell(r['theirs'])} |" for name, r in done.items()),
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _behind(done: Result) -> list[str]:
    """Where Torch-Pruning stays ahead, by name."""

    def names(better: Callable[[Result, Result], bool]) -> str:
        return ", ".join(name for name, r in done.items() if better(r["ours"], r["theirs"])) or "none"

    def full_and_faster(ours: Result, theirs: Result) -> bool:
        return _full(theirs) and _full(ours) and theirs["seconds"] < ours["seconds"]

    def partly_and_faster(ours: Result, theirs: Result) -> bool:
        return "error" in theirs and not _full(theirs) and theirs["seconds"] < ours["seconds"]

    def lighter(ours: Result, theirs: Result) -> bool:
        return _full(theirs) and _full(ours) and theirs["peak_mb"] + 1 < ours["peak_mb"]

    slower = {name: r for name, r in done.items() if full_and_faster(r["ours"], r["theirs"])}
    times = [
        f"{name} ({r['theirs']['seconds']:.2f} s, ours {r['ours']['seconds']:.2f} s)" for name, r in slower.items()
    ]
    return [
        "## Where Torch-Pruning stays ahead",
        "",
        f"- in full and exact, where ours is not: {names(lambda ours, theirs: _full(theirs) and not _full(ours))}",
        f"- in less time, both in full and exact: {', '.join(times) or 'none'}",
        f"- in less time, but inexact or with over 5 % of the body left whole: {names(partly_and_faster)}",
        f"- in less memory by more than 1 MB, both in full and exact: {names(lighter)}",
        "",
        "It traces by one real forward and backward pass, which is quick where model and image are small. Ours runs",
        "the model twice without data, to analyse it and to rehearse the smaller one before anything is cut, and once",
        "more where the smaller one must be a recorded program. That costs the same for every width and image size.",
        "One thread, on a machine with other work: differences of a few hundredths of a second mean nothing.",
    ]


def _full(result: Result) -> bool:
    return result.get("error", 1) < 1e-5 and result["prunable"] >= 0.95


def _cell(result: Result) -> str:
    if "failed" in result:
        return re.sub(r"[|\n]", " ", result["failed"][:80])
    return f"{result['error']:.0e}, {result['prunable']:.0%}, {result['seconds']:.2f} s"
