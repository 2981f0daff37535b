"""Measurements of several machines side by side: a column for each, a row for each model, precision and batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mvp_deploy.base.board import Board
from mvp_deploy.base.formats import loads, parse
from mvp_deploy.benchmark.cold import Cold
from mvp_deploy.benchmark.compare import Row
from mvp_deploy.benchmark.format import Times
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.remote.measured import Measured, OnDevice

Key = tuple[str, str, str, int]  # model, precision, runtime, batch


@dataclass(frozen=True)
class Column:
    """One machine; ``gap``: why it has no numbers, and then it has none."""

    name: str
    times: Times | None = None
    board: Board | None = None
    throttled: tuple[str, ...] = ()
    temperatures: tuple[float | None, float | None] = (None, None)  # the highest, before and after
    digest: str | None = None  # of the bundle
    gap: str | None = None


def column(measured: Measured) -> Column:
    """A device's."""
    hottest = [max(each.temperatures.values(), default=None) for each in (measured.before, measured.after)]
    return Column(
        measured.device,
        measured.times,
        measured.board,
        measured.throttled,
        (hottest[0], hottest[1]),
        measured.digest,
    )


@dataclass(frozen=True)
class Columns:
    """Several machines."""

    columns: tuple[Column, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headers, and a row for each model: median milliseconds, speed-up, and marks where that is not a result."""
        keys = dict.fromkeys(_key(row) for each in self.columns for row in _rows(each))
        cells = [(" ".join(filter(None, key[:3])), str(key[3]), *(_cell(c, key) for c in self.columns)) for key in keys]
        return ["model", "batch", *(each.name for each in self.columns)], [list(each) for each in cells]

    def remarks(self) -> list[str]:
        """A line for each machine: what it is, and what is to know of its numbers."""
        lines = [f"{each.name}: {'; '.join(_told(each))}" for each in self.columns]
        digests = {each.name: each.digest[:12] for each in self.columns if each.digest}
        if len(set(digests.values())) > 1:
            named = ", ".join(f"{name} {digest}" for name, digest in digests.items())
            lines.append(f"These are measurements of different bundles, by their digests: {named}.")
        return lines


def side_by_side(measured: Mapping[str, Measured], gaps: Mapping[str, str]) -> Columns:
    """Devices, with those that have no numbers, and why."""
    there = [column(each) for each in measured.values()]
    return Columns((*there, *(Column(name, gap=why) for name, why in gaps.items())))


def columns_of(task: Mapping[str, Any]) -> Columns:
    """The devices of a task of report.json."""
    found = {name: parse(OnDevice, loads(json.dumps(each).encode())) for name, each in task["devices"].items()}
    measured = {name: each.measured for name, each in found.items() if each.measured is not None}
    return side_by_side(measured, {name: str(each.gap) for name, each in found.items() if each.measured is None})


def _rows(column: Column) -> tuple[Row, ...]:
    return () if column.times is None else column.times.rows


def _key(row: Row) -> Key:
    return row.model, row.precision, row.runtime, row.batch


def _cell(column: Column, key: Key) -> str:
    if column.gap is not None:
        return "not measured"
    row = next((row for row in _rows(column) if _key(row) == key), None)
    if row is None:
        return "-"
    if row.timing is None:
        return "failed"
    gain = "" if row.speed_up is None else f" {row.speed_up.value:.2f}x"
    assert column.times is not None
    marks = [("disturbed", disturbed(asdict(column.times.environment))), ("throttled", bool(column.throttled)),
             ("not stable", not row.timing.stable)]  # fmt: skip
    told = "".join(f", {mark}" for mark, holds in marks if holds)
    return f"{row.timing.median.value:.3f} ms{gain}{told}"


def _told(column: Column) -> Iterator[str]:
    if column.gap is not None:
        yield column.gap.removeprefix(f"{column.name}: ")
        return
    assert column.times is not None
    machine = column.times.environment
    if column.board is not None:
        yield column.board.model if column.board.model != "not told" else machine.cpu
        yield column.board.os
    else:
        yield f"{machine.cpu}, {machine.system}"
    yield f"{machine.cores} cores"
    yield from sorted({row.ran_in for row in _rows(column)} - {""})
    here = [(row.accuracy_here, row.samples) for row in _rows(column) if row.model == "pruned"]
    if shares := [share for share, _ in here if share is not None]:
        yield f"accuracy there at least {min(shares):.1%} on the {here[0][1]} samples sent"
    for row in _rows(column):
        if row.model == "pruned" and row.batch == 1 and row.cold is not None:
            yield f"{row.model} {row.precision} {_alone(row.cold)}"
        if row.sustained is not None:
            yield f"{row.model} {row.precision} at batch {row.batch}: {row.sustained}"
    first, last = column.temperatures
    if first is not None and last is not None:
        yield f"{first:.0f} °C before and {last:.0f} °C after"
    if column.throttled:
        yield f"clocks lowered ({', '.join(column.throttled)}): no result"
    for error in dict.fromkeys(row.error for row in _rows(column) if row.error):
        yield f"failed: {error}"


def _alone(cold: Cold) -> str:
    told = [f"loads in {cold.load_ms:.0f} ms", f"first image {cold.first_ms:.1f} ms"]
    if cold.peak is not None:
        told.append(f"{cold.peak / 1e6:.0f} MB at most")
    if cold.energy_mj is not None:
        told.append(f"{cold.energy_mj:.1f} mJ an image")
    return ", ".join(told)
