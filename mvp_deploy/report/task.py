"""One task's report: what was gained and lost, on which machine, who voted, what was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from mvp_deploy.pruning.making import chosen
from mvp_deploy.report import plots
from mvp_deploy.report.page import Figure, Section, Table, page

Json = Mapping[str, Any]
COLUMNS = ("model", "batch", "speed-up", "accuracy", "p50 ms", "p90 ms", "p99 ms", "params", "MMACs", "MB")


def task_page(run: Json, measurements: Json | None) -> str:
    """The HTML page of a task, from its run.json and its bundle's measurements.json (None: it has none)."""
    rows = measurements["rows"] if measurements else []
    timed = (
        [_result(run, rows), _latencies(rows), _machine(measurements["environment"], rows, run)] if measurements else []
    )
    return page(
        f"{run['task']}: pruned by Meta-Vote Pruning", summary(run, rows), [*timed[:2], _votes(run), *timed[2:]]
    )


def summary(run: Json, rows: Sequence[Json]) -> str:
    """The result in one sentence."""
    pruned, unpruned = (run["metrics"][name] for name in ("pruned", "unpruned"))
    gains = [row for row in rows if row["speed_up"] and row["runtime"].startswith("onnxruntime")]
    images = run["images"]["test"]
    times = ", ".join(
        f"{row['precision']} ({accuracy(row, images)}) is {row['speed_up']['value']:.1f} times faster at batch "
        f"{row['batch']}" + ("" if row["timing"]["stable"] else " (not stable)")
        for row in gains
    )
    return (
        f"{pruned['params'] / unpruned['params']:.0%} of the parameters and {pruned['macs'] / unpruned['macs']:.0%} of "
        f"the MACs remain; accuracy is {pruned['accuracy']:.1%}, unpruned {unpruned['accuracy']:.1%}"
        + (f"; in ONNX Runtime {times}." if times else "; its latency was not measured.")
    )


def accuracy(row: Json, held_out: int) -> str:
    """A file's accuracy, with the number of images where not all that are held out were tested (of engines)."""
    some = row["tested"] and row["tested"] != held_out
    return f"{row['accuracy']:.1%}" + (f" of {row['tested']}" if some else "")


def table(run: Json, rows: Sequence[Json]) -> list[tuple[str, ...]]:
    """The result as cells under ``COLUMNS``, a row per model and batch size."""
    return [
        (
            f"{row['model']} {row['precision']}",
            str(row["batch"]),
            _gain(row["speed_up"]),
            accuracy(row, run["images"]["test"]),
            *(f"{row['timing'][key]:.3f}" for key in ("p50", "p90", "p99")),
            f"{run['metrics'][row['model']]['params']:,}",
            f"{run['metrics'][row['model']]['macs'] / 1e6:.2f}",
            f"{row['size'] / 1e6:.2f}",
        )
        for row in rows
    ]


def _gain(ratio: Json | None) -> str:
    return "baseline" if ratio is None else f"{ratio['value']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _result(run: Json, rows: Sequence[Json]) -> Section:
    first = [row for row in rows if row["batch"] == rows[0]["batch"]]
    plot = plots.accuracy_against_latency(
        [row["model"] for row in first],
        [row["timing"]["p50"] for row in first],
        [row["accuracy"] for row in first],
    )
    caption = (
        f"Accuracy on the {run['images']['test']} held-out images against median latency at batch {rows[0]['batch']}."
    )
    highlight = next((index for index, row in enumerate(rows) if row["model"] == "pruned"), None)
    return Section(
        "Result",
        "Both models were fine-tuned on this task by the same loop, exported, and compared with PyTorch on every "
        "held-out image before they were timed.",
        Table(COLUMNS, table(run, rows), highlight),
        [Figure(plot, caption)],
    )


def _latencies(rows: Sequence[Json]) -> Section:
    figures = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        at = [row for row in rows if row["batch"] == batch]
        svg = plots.latencies(
            [row["model"] for row in at],
            [[*chain.from_iterable(row["timing"]["windows"])] for row in at],
            [row["timing"]["p99"] for row in at],
        )
        shaky = [row["model"] for row in at if not row["timing"]["stable"]]
        note = f" Not stable: {', '.join(shaky)}." if shaky else ""
        figures.append(Figure(svg, f"Batch {batch}: the median of each window, and the 99th percentile (bar).{note}"))
    text = "In several fresh processes the models took turns in short windows, so that other load hit both."
    return Section("Latency", text, None, figures)


def _votes(run: Json) -> Section:
    voters, groups = run["votes"]["voters"], run["groups"]
    rows = [(voter["task"], f"{voter['similarity']:.3f}", f"{voter['weight']:.2f}") for voter in voters]
    svg = plots.kept(
        [group["name"] for group in groups],
        [group["kept"] / group["size"] for group in groups],
        [group["unanimity"] for group in groups],
    )
    ways = run["metrics"]["pruned"].get("making", {}).get("ways")
    return Section(
        "Who voted, and what stays",
        f"Recipe {run['recipe']['name']}: the task's own importance has {run['votes']['own']:.0%} of the say, the "
        f"neighbours' votes have the rest.{f' Tried: {chosen(ways)}.' if ways else ''}",
        Table(("neighbour", run["votes"].get("measure", "similarity"), "weight"), rows) if rows else None,
        [Figure(svg, f"Units kept in each of the {len(groups)} unit groups.")],
    )


def _machine(environment: Json, rows: Sequence[Json], run: Json) -> Section:
    details, others = dict(rows[0]["details"]), environment["others"]
    facts = {key: environment[key] for key in ("cpu", "cores", "system", "python")}
    facts |= details | environment["versions"] | {"seed": run["seed"], "backbone": run["backbone"]["name"]}
    return Section(
        "Measured on",
        "" if others is None else f"Other processes kept {others:.1f} of {environment['cores']} cores busy meanwhile.",
        Table(("", ""), [(str(key), str(value)) for key, value in facts.items()]),
    )
