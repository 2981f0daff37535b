"""What earlier runs of the same pipeline found: how it changed since the last one, and how it goes over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from mvp_deploy.base.formats import Amount, Share, Within
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.report import plots
from mvp_deploy.report.page import Figure, Section, Table

KEPT = 50  # runs
DRAWN = 8  # tasks: more lines hide each other
COLUMNS = ("task", "outcome", "accuracy", "points since", "ms", "ms since", "timed")


@dataclass(frozen=True)
class Standing:
    """What one run found of a task.

    ms: the median of its first timed pruned model, which ``timed`` names; None where other work disturbed it.
    """

    outcome: str
    accuracy: Share | None = None
    ms: Amount | None = None
    timed: str = ""


@dataclass(frozen=True)
class Past:
    """One run."""

    time: str
    commit: str | None
    tasks: dict[str, Standing]


@dataclass(frozen=True)
class History:
    """history.json: the last runs, oldest first."""

    schema: Literal[1] = 1
    runs: Annotated[tuple[Past, ...], Within(0, KEPT)] = ()

    def with_run(self, report: Mapping[str, Any]) -> History:
        """The history after this report; the oldest run goes where there are too many."""
        tasks = {name: _standing(task) for name, task in report["tasks"].items()}
        return History(runs=(*self.runs, Past(report["time"], report.get("commit"), tasks))[-KEPT:])


def _standing(task: Mapping[str, Any]) -> Standing:
    if not task.get("metrics"):
        return Standing(task["outcome"])
    accuracy = task["metrics"]["pruned"]["accuracy"]
    times = task.get("times")
    if times is None or disturbed(times["environment"]):  # such times are not kept
        return Standing(task["outcome"], accuracy)
    for row in times["rows"]:
        if row["timing"] and row["model"] == "pruned":
            timed = f"{row['precision']} in {row['runtime']}, batch {row['batch']}, {times['environment']['cpu']}"
            return Standing(task["outcome"], accuracy, row["timing"]["median"]["value"], timed)
    return Standing(task["outcome"], accuracy)


def sections(history: History) -> Iterator[Section]:
    """The last run beside the one before it, and the accuracies of all; nothing of a first run."""
    if len(history.runs) < 2:
        return
    before, now = history.runs[-2:]
    rows = [_row(name, each, before.tasks.get(name)) for name, each in now.tasks.items()]
    text = f"The last run was on {_time(before)}{_commit(before)}. Values alone: gates judge by intervals."
    figures = [] if len(history.runs) < 3 else list(_trend(history.runs))
    yield Section("Since the last run", text, Table(COLUMNS, rows), figures)


def _row(name: str, now: Standing, before: Standing | None) -> tuple[str, ...]:
    outcome, points, ms = now.outcome, "new" if before is None else "", ""
    if before is not None:
        outcome = now.outcome if now.outcome == before.outcome else f"{before.outcome} → {now.outcome}"
        if now.accuracy is not None and before.accuracy is not None:
            points = f"{100 * (now.accuracy - before.accuracy):+.1f}"
        if now.ms and before.ms and now.timed == before.timed:
            ms = f"{now.ms / before.ms - 1:+.1%}"
    accuracy = "" if now.accuracy is None else f"{now.accuracy:.1%}"
    return name, outcome, accuracy, points, "" if now.ms is None else f"{now.ms:.3f}", ms, now.timed


def _trend(runs: Sequence[Past]) -> Iterator[Figure]:
    names = list(runs[-1].tasks)[:DRAWN]
    lines = [[run.tasks[name].accuracy if name in run.tasks else None for run in runs] for name in names]
    some = f" of the first {DRAWN} tasks" if len(runs[-1].tasks) > DRAWN else ""
    yield Figure(
        plots.trend(names, lines),
        f"Held-out accuracy of the pruned models{some} in the last {len(runs)} runs, from {_time(runs[0])} to now.",
    )


def _time(run: Past) -> str:
    return run.time.replace("T", " ").rstrip("Z") + " UTC"


def _commit(run: Past) -> str:
    return f", commit {run.commit[:10]}" if run.commit else ""
