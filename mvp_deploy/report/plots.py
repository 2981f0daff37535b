"""Plots as inline SVG in the page's own colours, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
WIDTH = 4.8  # inches: at 400 pixels of width the text still has about 9 pixels


def accuracy_against_latency(names: Sequence[str], milliseconds: Sequence[float], accuracies: Sequence[float]) -> str:
    """One point per model: median latency in milliseconds, and accuracy (0..1). The first is the baseline."""
    with _plot(2.6) as (axes, svg):
        for index, (name, x, y) in enumerate(zip(names, milliseconds, accuracies, strict=True)):
            axes.plot(x, 100 * y, "o", color=SECOND if index == 0 else FIRST, markersize=8)
            axes.annotate(name, (x, 100 * y), xytext=(8, 4), textcoords="offset points")
        low, high = 100 * min(accuracies), 100 * max(accuracies)
        axes.set(xlabel="median latency, ms", ylabel="accuracy, %", xlim=(0, 1.25 * max(milliseconds)))
        axes.set_ylim(max(0, low - max(2, high - low)), high + max(2, high - low))
    return svg[0]


def latencies(names: Sequence[str], windows: Sequence[Sequence[float]], p99: Sequence[float]) -> str:
    """One line per model: the median latency of each window (dots) and the 99th percentile of all runs (bar), in ms."""
    import numpy as np

    with _plot(0.9 + 0.5 * len(names)) as (axes, svg):
        for row, (values, tail) in enumerate(zip(windows, p99, strict=True)):
            spread = np.random.default_rng(row).uniform(-0.18, 0.18, len(values))
            axes.plot(values, row + spread, "o", markersize=3, alpha=0.4, color=SECOND if row == 0 else FIRST)
            axes.plot([tail, tail], [row - 0.25, row + 0.25], color=INK, linewidth=1.5)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="latency, ms", xlim=(0, None), ylim=(len(names) - 0.5, -0.5))
    return svg[0]


def kept(names: Sequence[str], shares: Sequence[float], unanimity: Sequence[float | None]) -> str:
    """Per unit group, from first to last: the share of its units that stay, and the voters' agreement (0..1)."""
    with _plot(2.4) as (axes, svg):
        positions = range(len(names))
        axes.bar(positions, [100 * share for share in shares], color=FIRST, alpha=0.8, label="kept")
        agreed = [(x, 100 * value) for x, value in zip(positions, unanimity, strict=True) if value is not None]
        if agreed:
            axes.plot(*zip(*agreed, strict=True), "o", color=SECOND, markersize=4, label="voters' agreement")
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        axes.set(xlabel="unit group, input to output", ylabel="%", ylim=(0, 105))
        axes.set_xticks([])
    return svg[0]


@contextmanager
def _plot(height: float) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; afterwards the list holds the SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    svg: list[str] = []
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
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
