"""One task's report: what was gained and lost, on which machine, who voted, what was kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from mvp_deploy.base.environment import commit
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.benchmark.statistics import Interval, accuracy_interval
from mvp_deploy.bundle import Bundle, untried
from mvp_deploy.exporters.protocol import size_of
from mvp_deploy.pruning.making import chosen
from mvp_deploy.report import plots
from mvp_deploy.report.judged import MODELS, Judged, judged
from mvp_deploy.report.page import Figure, Section, Table, page
from mvp_deploy.report.pictures import picture
from mvp_deploy.tasks.task import Split

Json = Mapping[str, Any]
LONG = 20  # rows: longer tables are folded
PICTURES, MISTAKES = 24, 10
COLUMNS = ("model", "batch", "speed-up", "accuracy", "p50 ms", "p90 ms", "p99 ms", "params", "MMACs", "MB")


def task_page(
    run: Json,
    measurements: Json | None,
    bundle: Bundle | None = None,
    test: Split | None = None,
    link: str = "",
    first: Sequence[Section] = (),
) -> str:
    """The HTML page of a task.

    Args:
        run: run.json.
        measurements: its bundle's measurements.json; None: it has none.
        bundle: whose files, and whose models' answers, are shown as well.
        test: the held-out images, in the order of the run; None: no pictures.
        link: the bundle's place relative to the page.
        first: sections that come before the models.
    """
    rows = measurements["rows"] if measurements else []
    timed = [row for row in rows if row["timing"]]
    found = judged(bundle) if bundle else None
    sections = [
        *_failures(run, measurements, bundle),
        *first,
        *([_models(run, timed)] if timed else []),
        *([_files(bundle)] if bundle and not timed else []),
        *([] if found is None else _judged(found, test)),
        *([_latencies(timed)] if timed else []),
        _votes(run),
        _widths(run),
        _making(run),
        *([_machine(measurements["environment"], rows, run)] if measurements and rows else []),
    ]
    source, mark, classes = run["task"].partition("#")
    name = source.rpartition("/")[2] + mark + classes
    return page(f"{name}, pruned and unpruned", summary(run, timed), sections, link)


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
            gain(row["speed_up"]),
            accuracy(row, run["images"]["test"]),
            *(f"{row['timing'][key]:.3f}" for key in ("p50", "p90", "p99")),
            f"{run['metrics'][row['model']]['params']:,}",
            f"{run['metrics'][row['model']]['macs'] / 1e6:.2f}",
            f"{row['size'] / 1e6:.2f}",
        )
        for row in rows
    ]


def gain(ratio: Json | None) -> str:
    return "baseline" if ratio is None else Interval(**ratio).times


def _failures(run: Json, measurements: Json | None, bundle: Bundle | None) -> Iterator[Section]:
    """What went wrong, or deserves a warning: it comes first."""
    failed = [each["error"] for each in bundle.info.get("failed", ())] if bundle else []
    rows = measurements["rows"] if measurements else ()
    failed += [f"{_named(row)} was not timed: {row['error']}" for row in rows if row.get("error")]
    lines = [("failed", line) for line in failed] + [("warning", line) for line in run.get("warnings", ())]
    lines += [("warning", line) for line in (untried(bundle.models) if bundle else ())]
    if measurements and disturbed(measurements["environment"]):
        lines.append(("warning", "Other processes were busy while this was timed: its times say little."))
    if lines:
        yield Section("What to know first", "", Table(("kind", "what"), lines))


def _named(row: Json) -> str:
    return f"{row['model']} {row['precision']} {row['runtime']}"


def _models(run: Json, rows: Sequence[Json]) -> Section:
    """One row is one model; milliseconds stand in a column for each batch size."""
    batches = sorted({row["batch"] for row in rows})
    names = list(dict.fromkeys(map(_named, rows)))
    table, points, widths = [], [], []
    for name in names:
        at = {row["batch"]: row for row in rows if _named(row) == name}
        first = next(iter(at.values()))
        accuracy = accuracy_interval(first["accuracy"], first["tested"] or run["images"]["test"])
        median = Interval(**first["timing"]["median"])
        points.append((median.value, accuracy.value))
        widths.append((median, accuracy))
        metrics = run["metrics"][first["model"]]
        some = f" of {first['tested']}" if first["tested"] and first["tested"] != run["images"]["test"] else ""
        table.append((
            name, _shares(accuracy) + some, *(_milliseconds(at.get(batch)) for batch in batches),
            gain(first["speed_up"]), f"{first['size'] / 1e6:.2f}",
            f"{metrics['params']:,}", f"{metrics['macs'] / 1e6:.1f}",
        ))  # fmt: skip
    whole = [name.startswith("unpruned") for name in names]
    medians, accuracies = [x for x, _ in points], [y for _, y in points]
    plot = plots.accuracy_against_latency(names, medians, accuracies, whole, widths)
    columns = ("model", "accuracy", *(f"ms, batch {batch}" for batch in batches), "speed-up", "MB", "params", "MMACs")
    text = (
        "Every file was compared with PyTorch before it was timed. Brackets hold 95 % intervals; milliseconds are "
        "medians, and speed-up is against the unpruned model of the same runtime and precision."
    )
    caption = f"Accuracy against median latency at batch {batches[0]}; the bars are 95 % intervals."
    fastest = min((k for k, each in enumerate(whole) if not each), key=lambda k: points[k][0], default=None)
    return Section("Models", text, Table(columns, table, fastest), [Figure(plot, caption)])


def _files(bundle: Bundle) -> Section:
    rows = [
        (
            file.file,
            _shares(accuracy_interval(file.accuracy, file.tested)),
            f"{size_of(bundle.path / file.file) / 1e6:.2f}",
        )
        for file in bundle.models
    ]
    return Section("Models", "Latency was not measured.", Table(("file", "accuracy", "MB"), rows))


def _shares(found: Interval) -> str:
    return f"{found.value:.1%} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def _milliseconds(row: Json | None) -> str:
    if row is None:
        return ""
    median = row["timing"]["median"]
    shaky = "" if row["timing"]["stable"] else ", not stable"
    return f"{median['value']:.3f} ({median['low']:.3f}-{median['high']:.3f}){shaky}"


def _judged(found: Judged, test: Split | None) -> Iterator[Section]:
    """Which classes and which images the pruning cost."""
    columns = ("class", "images", "recall unpruned", "recall pruned", "change, 95 % interval")
    rows = found.per_class()
    yield Section(
        "Per class",
        "Of the PyTorch models, on the held-out images; recall is the share of a class's images named rightly.",
        Table(columns, rows, folded=f"All {len(rows)} classes" if len(rows) > LONG else ""),
    )
    names = found.classes
    yield Section(
        "Confusion",
        "",
        _confused(found),
        [Figure(plots.confusion(names, found.confusion(m)), f"The {m} model's answers.") for m in MODELS],
    )
    lost, gained = found.lost(), int((found.right("pruned") & ~found.right("unpruned")).sum())
    told = (
        f"The pruned model gets {len(lost)} of {len(found.labels)} images wrong that the unpruned one gets right, and "
        f"{gained} the other way round."
    )
    pictures = []
    if test is not None and len(test) == len(found.labels):
        for number in lost[:PICTURES]:
            given, sure = names[found.found["pruned"][number]], found.sure["pruned"][number]
            told_of = f"{names[found.labels[number]]}, taken for {given} ({sure:.0%} sure)"
            pictures.append(picture(test, int(number), told_of))
    more = f" The {PICTURES} that it is surest of:" if len(lost) > PICTURES and pictures else ""
    yield Section("What pruning lost", told + more, pictures=pictures)
    points, errors = zip(*(found.reliability(model) for model in MODELS), strict=True)
    yield Section(
        "Confidence",
        f"Expected calibration error: {100 * errors[0]:.1f} points unpruned, {100 * errors[1]:.1f} points pruned. It "
        "is how far the probability of the answer is from the share of right answers, on average.",
        figures=[Figure(plots.reliability(MODELS, points), "Right answers against confidence, in bins of 10 points.")],
    )


def _confused(found: Judged) -> Table | None:
    """The pruned model's most frequent mistakes, beside how often the unpruned one makes them."""
    before, after = (found.confusion(model) * (1 - np.eye(len(found.classes), dtype=int)) for model in MODELS)
    order = [divmod(int(k), len(found.classes)) for k in np.argsort(-after, axis=None, kind="stable")[:MISTAKES]]
    rows = [
        (found.classes[true], found.classes[given], str(after[true, given]), str(before[true, given]))
        for true, given in order
        if after[true, given]
    ]
    return Table(("true class", "taken for", "times, pruned", "times, unpruned"), rows) if rows else None


def _latencies(rows: Sequence[Json]) -> Section:
    figures = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        at = [row for row in rows if row["batch"] == batch]
        several = len({row["runtime"] for row in at}) > 1
        svg = plots.latencies(
            [f"{row['model']} {row['precision']}" + (f" {row['runtime']}" if several else "") for row in at],
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
    ways = run["metrics"]["pruned"].get("making", {}).get("ways")
    return Section(
        "Who voted, and what stays",
        f"Recipe {run['recipe']['name']}: the task's own importance has {run['votes']['own']:.0%} of the say, the "
        f"neighbours' votes have the rest.{f' Tried: {chosen(ways)}.' if ways else ''}",
        Table(("neighbour", run["votes"].get("measure", "similarity"), "weight"), rows) if rows else None,
        [Figure(plots.kept(groups), f"Units kept in each of the {len(groups)} unit groups.")],
    )


def _widths(run: Json) -> Section:
    """How many units of each group stayed."""
    rows = [
        (g["name"], g.get("kind", ""), str(g["size"]), str(g["kept"]), f"{g['kept'] / g['size']:.0%}",
         "" if g["unanimity"] is None else f"{g['unanimity']:.0%}")
        for g in run["groups"]
    ]  # fmt: skip
    text = (
        "A group is units that stand or fall together: channels, attention heads or hidden units of one or more "
        "layers. Agreement is how far the neighbours' votes on them were the same (100 %: unanimous)."
    )
    columns = ("group", "kind", "units", "kept", "share", "agreement")
    folded = f"All {len(rows)} groups" if len(rows) > LONG else ""
    return Section("Kept widths", text, Table(columns, rows, folded=folded))


def _making(run: Json) -> Section:
    """How the models were made, to make them again."""
    budget = run.get("budget", {})
    rows = [
        (name, f"{metrics.get('steps', 0)} steps, {metrics.get('seconds', 0):.0f} s")
        for name, metrics in run["metrics"].items()
    ]
    rows = [("data", run["task"]), *_commit(), *((f"training of the {name} model", told) for name, told in rows)]
    rows += [(f"recipe: {name}", str(value)) for name, value in run["recipe"].items()]
    rows += [(f"budget: {name}", str(value)) for name, value in budget.items()]
    rows += [(f"training: {name}", str(value)) for name, value in run.get("training", {}).items()]
    return Section("Made by", "", Table(("setting", "value"), rows, folded="All settings"))


def _commit() -> list[tuple[str, str]]:
    found = commit()
    return [("git commit", found)] if found else []


def _machine(environment: Json, rows: Sequence[Json], run: Json) -> Section:
    details, others = dict(rows[0]["details"]), environment["others"]
    facts = {key: environment[key] for key in ("cpu", "cores", "system", "python")}
    facts |= details | environment["versions"] | {"seed": run["seed"], "backbone": run["backbone"]["name"]}
    return Section(
        "Measured on",
        "" if others is None else f"Other processes kept {others:.1f} of {environment['cores']} cores busy meanwhile.",
        Table(("", ""), [(str(key), str(value)) for key, value in facts.items()]),
    )
