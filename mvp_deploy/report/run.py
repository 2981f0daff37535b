"""report.html: a run of several tasks on one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any
from urllib.parse import quote

from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.report import plots
from mvp_deploy.report.ci import OVERVIEW
from mvp_deploy.report.ci import row as cells
from mvp_deploy.report.devices import columns_of
from mvp_deploy.report.history import History
from mvp_deploy.report.history import sections as sections_of
from mvp_deploy.report.page import Figure, Section, Table, page

Json = Mapping[str, Any]
GATES = ("gate", "outcome", "found", "limit", "95 % interval", "of")


def report_page(report: Json, history: History | None = None) -> str:
    """The page's HTML. history: with this run as the last."""
    tasks = dict(sorted(report["tasks"].items(), key=lambda task: not task[1]["code"]))  # failures first
    rows = [cells(task) for task in tasks.items()]
    met = sum(task["outcome"] == "met" for task in tasks.values())
    lead = f"{met} of {len(tasks)} tasks met their gates. {report['time'].replace('T', ' ').rstrip('Z')} UTC."
    since = sections_of(history) if history else ()
    sections = [
        Section("Tasks", "", Table(OVERVIEW, rows)),
        *_changes(report),
        *since,
        *_tasks(tasks),
        _machine(report),
    ]
    return page("mvp-deploy run", lead, sections)


def _changes(report: Json) -> Iterator[Section]:
    """Regressions and improvements since the baseline."""
    found = [
        (name, _change(gate), gate["gate"], _number(gate["value"]), _interval(gate), gate["subject"])
        for name, task in report["tasks"].items()
        for gate in task["gates"]
        if gate["gate"] in CHANGES
    ]
    gone = f" No longer in the config: {', '.join(report['gone'])}." if report["gone"] else ""
    if found:
        text = "A change within the noise is not a change: intervals are judged, not values." + gone
        columns = ("task", "change", "in", "found", "95 % interval", "of")
        yield Section("Since the baseline", text, Table(columns, found))
    elif gone:
        yield Section("Since the baseline", gone)


CHANGES = {"accuracy change": 0.0, "size growth": 1.0, "latency growth": 1.0, "speed-up loss": 1.0}  # no change


def _change(gate: Json) -> str:
    if gate["code"]:
        return "regression" if gate["outcome"] == "failed" else str(gate["outcome"])
    better = gate["low"] > 0 if gate["gate"] == "accuracy change" else gate["high"] < CHANGES[gate["gate"]]
    return "improvement" if better else "none beyond noise or limit"


def _tasks(tasks: Json) -> Iterator[Section]:
    for name, task in tasks.items():
        steps = "; ".join(map(_step, task["steps"]))
        told = [*filter(None, [task["error"]]), *task.get("warnings", ()), *_busy(task)]
        told.append(f"Steps: {steps}." if steps else "")
        gates = [
            (g["gate"], g["outcome"], _number(g["value"]), _number(g["limit"]), _interval(g), g["subject"])
            for g in task["gates"]
            if g["gate"] not in CHANGES
        ]
        table = Table(GATES, gates) if gates else None
        figures = list(_figures(task)) if task.get("models") else []
        link = f"bundles/{quote(name)}/" if task.get("bundle") else ""  # beside the page
        yield Section(f"{name}: {task['outcome']}", " ".join(told), table, figures, link=link)
        if task.get("devices"):
            there = columns_of(task)
            text = " ".join(f"{line}." for line in there.remarks())
            yield Section(f"{name}: on devices", text, Table(*there.table()))
        voters = task.get("votes", {}).get("voters", ())
        if voters:
            cells = [(_short(v["task"]), f"{v['similarity']:.3f}", f"{v['weight']:.2f}") for v in voters]
            columns = ("neighbour", task["votes"].get("measure", "similarity"), "weight")
            yield Section(f"{name}: who voted", "", Table(columns, cells))


def _step(done: Json) -> str:
    seconds = f" ({done['seconds']:.1f} s)" if done["status"] == "done" else ""
    return f"{done['step']} {done['status']}{seconds}"


def _busy(task: Json) -> Iterator[str]:
    if "times" in task and disturbed(task["times"]["environment"]):
        found = task["times"]["environment"]
        yield (
            f"Other processes kept {found['others']:.1f} of {found['cores']} cores busy while this was timed, so its "
            "times and speed-ups say little."
        )


def _figures(task: Json) -> Iterator[Figure]:
    rows = [row for row in task["times"]["rows"] if row["timing"]]
    for batch in dict.fromkeys(row["batch"] for row in rows):
        at = [row for row in rows if row["batch"] == batch]
        runtimes = {row["runtime"] for row in at}
        names = [f"{row['model']} {row['precision']} {row['runtime'] if len(runtimes) > 1 else ''}" for row in at]
        medians = [row["timing"]["median"]["value"] for row in at]
        against = plots.accuracy_against_latency(names, medians, [row["accuracy"] for row in at])
        where = f" in {runtimes.pop()}" if len(runtimes) == 1 else ""
        yield Figure(against, f"Accuracy on {_tested(at)} held-out images against latency{where}, batch {batch}.")
        windows = [[*chain.from_iterable(row["timing"]["windows"])] for row in at]
        spread = plots.latencies(names, windows, [row["timing"]["p99"] for row in at])
        yield Figure(spread, f"Batch {batch}: the median of each window, and the 99th percentile of all runs (bar).")
    groups = task["groups"]
    caption = f"Units kept in each of the {len(groups)} unit groups, and how unanimous the voters were."
    yield Figure(plots.kept(groups), caption)


def _tested(rows: Sequence[Json]) -> str:
    """On how many images the rows' accuracies were measured: of engines, on the samples alone."""
    counts = sorted({row["tested"] for row in rows}, reverse=True)
    return f"{counts[0]}" + (f" (engines: {counts[-1]})" if len(counts) > 1 else "")


def _short(task: str) -> str:
    """A task's source without its folders, and its classes."""
    source, mark, classes = task.partition("#")
    return source.rpartition("/")[2] + mark + classes.replace(",", ", ")


def _machine(report: Json) -> Section:
    environment = report["environment"]
    facts = {name: environment[name] for name in ("cpu", "cores", "system", "python")} | environment["versions"]
    facts |= {"git commit": report["commit"]} if report.get("commit") else {}
    return Section("Made with", "", Table(("", ""), [(name, str(value)) for name, value in facts.items()]))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(gate: Json) -> str:
    return "" if gate["low"] == gate["high"] else f"{gate['low']:.4g} to {gate['high']:.4g}"
