"""Plots as inline SVG in the page's own colours, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvp_deploy.benchmark.statistics import Interval

# Stand-ins that matplotlib takes for colours; in the SVG each becomes what the page's style sheet gives.
INK, SOFT, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404"
PAGE = {INK: "currentColor", SOFT: "var(--soft)", FIRST: "var(--a)", SECOND: "var(--b)"}
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "mvp-deploy",  # equal plots, equal bytes
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
LABELLED, COUNTED = 30, 14  # classes of a confusion matrix up to which names and numbers fit
WIDTH = 4.8  # inches: at 400 pixels of width the text still has about 9 pixels


def accuracy_against_latency(
    names: Sequence[str],
    milliseconds: Sequence[float],
    accuracies: Sequence[float],
    second: Sequence[bool] | None = None,
    intervals: Sequence[tuple[Interval, Interval]] = (),
) -> str:
    """One point per model: median latency in milliseconds, and accuracy (0..1).

    second: which are drawn in the second colour; by default the first, the baseline.
    intervals: of milliseconds and accuracy, drawn as thin bars.
    """
    second = [index == 0 for index in range(len(names))] if second is None else second
    wider = 0.08 * max(0, max(map(len, names)) - 20)  # inches, for names that would leave no room for the points
    with _plot(max(2.6, 0.5 + 0.22 * len(names)), WIDTH + wider) as (axes, svg):
        low = 100 * min([*accuracies, *(accuracy.low for _, accuracy in intervals)])
        high = 100 * max([*accuracies, *(accuracy.high for _, accuracy in intervals)])
        margin = max(2, (high - low) / (10 if intervals else 1))
        bottom, top = max(0, low - margin), min(100, high + margin)
        axes.set(xlabel="median latency, ms", ylabel="accuracy, %")
        slowest = max([*milliseconds, *(time.high for time, _ in intervals)])
        axes.set(xlim=(0, 1.05 * slowest), ylim=(bottom, top))
        for index, (time, accuracy) in enumerate(intervals):
            colour = SECOND if second[index] else FIRST
            axes.plot([time.low, time.high], [100 * accuracies[index]] * 2, color=colour, linewidth=1)
            axes.plot([milliseconds[index]] * 2, [100 * accuracy.low, 100 * accuracy.high], color=colour, linewidth=1)
        order = sorted(range(len(names)), key=lambda index: accuracies[index])
        for place, index in enumerate(order):  # names stand in a column on the right, where none hides another
            x, y = milliseconds[index], 100 * accuracies[index]
            axes.plot(x, y, "o", color=SECOND if second[index] else FIRST, markersize=8, clip_on=False, zorder=3)
            axes.annotate(
                names[index],
                (x, y),
                xytext=(1.06, (place + 0.5) / len(names)),
                textcoords="axes fraction",
                verticalalignment="center",
                arrowprops={
                    "arrowstyle": "-",
                    "color": SOFT,
                    "linewidth": 0.6,
                    "relpos": (0, 0.5),
                    "shrinkA": 2,
                    "shrinkB": 5,
                },
            )
    return svg[0]


def latencies(names: Sequence[str], windows: Sequence[Sequence[float]], p99: Sequence[float]) -> str:
    """One line per model: the median latency of each window (dots) and the 99th percentile of all runs (bar), in ms.

    On a logarithmic axis: equal distances are equal speed-ups, and one slow window does not squeeze the rest.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    with _plot(0.9 + 0.4 * len(names)) as (axes, svg):
        for row, (values, tail) in enumerate(zip(windows, p99, strict=True)):
            spread = np.random.default_rng(row).uniform(-0.18, 0.18, len(values))
            axes.plot(values, row + spread, "o", markersize=3, alpha=0.4, color=SECOND if row == 0 else FIRST)
            axes.plot([tail, tail], [row - 0.25, row + 0.25], color=INK, linewidth=1.5)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="latency, ms", xscale="log", ylim=(len(names) - 0.5, -0.5))
        found = [value for values in windows for value in values]
        wide = max(*found, *p99) > 50 * min(found)
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=8))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())
    return svg[0]


def kept(groups: Sequence[Mapping[str, Any]]) -> str:
    """Per unit group, as run.json has them: the share of its units that stay, and the voters' agreement."""
    with _plot(2.4) as (axes, svg):
        shares = [100 * group["kept"] / group["size"] for group in groups]
        axes.bar(range(len(groups)), shares, color=FIRST, alpha=0.8, label="kept")
        found = enumerate(group["unanimity"] for group in groups)
        agreed = [(x, 100 * value) for x, value in found if value is not None]
        if agreed:
            axes.plot(*zip(*agreed, strict=True), "o", color=SECOND, markersize=4, label="voters' agreement")
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        axes.set(xlabel="unit group, input to output", ylabel="%", ylim=(0, 105))
        axes.set_xticks([])
    return svg[0]


def confusion(classes: Sequence[str], counts: np.ndarray) -> str:
    """Images of each class (row) by the class they were given (column), int [classes, classes]; shades are shares."""
    from matplotlib.patches import Rectangle

    some, few = len(classes) <= LABELLED, len(classes) <= COUNTED
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with _plot(WIDTH) as (axes, svg):
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = FIRST if row == column else SECOND
            cell = Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=0.15 + 0.7 * shares[row, column])
            axes.add_patch(cell)
            if few:
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8)
        size = len(classes)
        axes.set(xlabel="given class", ylabel="true class", xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
        ticks = range(size) if some else []
        axes.set_xticks(ticks, classes if some else [], rotation=90, fontsize=8)
        axes.set_yticks(ticks, classes if some else [], fontsize=8)
    return svg[0]


def reliability(names: Sequence[str], points: Sequence[Sequence[tuple[float, float]]]) -> str:
    """For each model, the share of right answers (0..1) against the mean confidence; the diagonal is perfect."""
    with _plot(3.0) as (axes, svg):
        axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.8, linestyle="--")
        for number, (name, each) in enumerate(zip(names, points, strict=True)):
            said, right = zip(*each, strict=True)
            colour = SECOND if number == 0 else FIRST
            axes.plot(100 * np.array(said), 100 * np.array(right), "o-", color=colour, markersize=4, label=name)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        axes.set(xlabel="confidence, %", ylabel="right, %", xlim=(0, 105), ylim=(0, 105))
    return svg[0]


def trend(names: Sequence[str], accuracies: Sequence[Sequence[float | None]]) -> str:
    """One line per task: its accuracy (0..1) in each run, from the oldest on; None: the run has none."""
    from matplotlib.ticker import MaxNLocator

    with _plot(0.22 * len(names) + 2.2) as (axes, svg):
        for name, values in zip(names, accuracies, strict=True):
            points = [float("nan") if value is None else 100 * value for value in values]
            axes.plot(range(1, len(points) + 1), points, "o-", color=FIRST, markersize=4, alpha=0.7)
            last = next((place for place in reversed(range(len(points))) if points[place] == points[place]), None)
            if last is not None:
                axes.annotate(name, (last + 1, points[last]), xytext=(6, 0), textcoords="offset points", va="center")
        axes.set(xlabel="run", ylabel="accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.2)
    return svg[0]


def standing_alone(svg: str) -> str:
    """A plot as a file of its own, with colours for light and dark pages."""
    style = "<style>:root { color: #777; --soft: #999; --a: #2a78d6; --b: #c2571a; }</style>"
    return svg.replace(">", f">{style}", 1)


@contextmanager
def _plot(height: float, width: float = WIDTH) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; afterwards the list holds the SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    svg: list[str] = []
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.add_subplot(), svg
        svg.append(_inline(figure))


def _inline(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # the same in every figure, and nothing refers to them
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    for stand_in, colour in PAGE.items():
        text = text.replace(stand_in, colour)
    return text
