"""The front page of many tasks says what changed since the last run, and how accuracy goes over time."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from mvp_deploy.base.formats import loads, parse
from mvp_deploy.report.history import KEPT, History, sections

ROW = {"model": "pruned", "precision": "fp32", "runtime": "onnxruntime CPU", "batch": 1}


def report(day: int, accuracy: float | None, ms: float, cpu: str = "a board", others: float = 0.0) -> dict[str, Any]:
    """report.json of one task; no accuracy: it failed on the way."""
    task: dict[str, Any] = {"outcome": "error"}
    if accuracy is not None:
        rows = [{**ROW, "model": "unpruned", "timing": {"median": {"value": 9.0}}}]
        rows.append({**ROW, "timing": {"median": {"value": ms}}})
        times = {"environment": {"cpu": cpu, "cores": 2, "others": others}, "rows": rows}
        task = {"outcome": "met", "metrics": {"pruned": {"accuracy": accuracy}}, "times": times}
    return {"time": f"2026-11-{day:02}T10:00:00Z", "commit": "0123456789abcdef", "tasks": {"dogs": task}}


def history(*reports: dict[str, Any]) -> History:
    found = History()
    for each in reports:
        found = found.with_run(each)
    return found


def cells(found: History) -> tuple[str, ...]:
    (section,) = sections(found)
    assert section.table is not None
    return tuple(section.table.rows[0])


def test_a_first_run_has_nothing_to_compare_with() -> None:
    assert list(sections(history(report(1, 0.9, 2.0)))) == []


def test_accuracy_changes_in_points_and_time_in_percent() -> None:
    found = cells(history(report(1, 0.9, 2.0), report(2, 0.875, 1.5)))
    assert found[:6] == ("dogs", "met", "87.5%", "-2.5", "1.500", "-25.0%")


def test_times_of_another_machine_are_not_compared() -> None:
    assert cells(history(report(1, 0.9, 2.0), report(2, 0.9, 1.5, "another board")))[4:6] == ("1.500", "")


def test_times_that_other_work_disturbed_are_not_kept() -> None:
    found = history(report(1, 0.9, 2.0), report(2, 0.875, 7.0, others=1.0))
    assert cells(found)[2:6] == ("87.5%", "-2.5", "", "")
    assert cells(found.with_run(report(3, 0.9, 1.5)))[4:6] == ("1.500", "")


def test_a_task_that_failed_or_is_new_is_said_to_be() -> None:
    assert cells(history(report(1, None, 0), report(2, 0.9, 1.5)))[1:4] == ("error → met", "90.0%", "")
    new = history(report(1, 0.9, 2.0), report(2, 0.9, 2.0))
    new = replace(new, runs=(replace(new.runs[0], tasks={}), new.runs[1]))
    assert cells(new)[3] == "new"


def test_from_three_runs_on_a_line_shows_the_trend() -> None:
    (section,) = sections(history(*(report(day, 0.9, 2.0) for day in (1, 2)), report(3, None, 0)))
    assert section.text.startswith("The last run was on 2026-11-02 10:00:00 UTC, commit 0123456789.")
    assert ">dogs<" in section.figures[0].svg


def test_the_oldest_run_goes_and_the_file_is_read_as_it_was_written() -> None:
    found = history(*(report(1 + number % 28, 0.9, 2.0) for number in range(KEPT + 3)))
    assert len(found.runs) == KEPT
    assert parse(History, loads(json.dumps(asdict(found)).encode())) == found
