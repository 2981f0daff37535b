"""A search's candidates as a picture: accuracy against measured milliseconds, and what to take."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.base.files import write_text
from mvp_deploy.latency.front import Frontier
from mvp_deploy.report.page import Figure, Section, page
from mvp_deploy.report.plots import accuracy_against_latency, standing_alone


def candidates(found: Frontier, title: str = "Candidates", text: str = "") -> Section:
    """All that was tried."""
    order = sorted(found.candidates, key=lambda c: (not c.unpruned, c.ms))
    svg = accuracy_against_latency(
        [each.label for each in order],
        [each.ms for each in order],
        [each.accuracy for each in order],
        second=[each.unpruned for each in order],
        intervals=[(each.milliseconds, each.interval) for each in order],
    )
    caption = (
        "Held-out accuracy against measured milliseconds, 95 % intervals of both; the unpruned in the second colour, "
        "cuts by what stays."
    )
    return Section(title, text, figures=[Figure(svg, caption)])


def draw(found: Frontier, milliseconds: float | None, out: Path) -> None:
    """Write ``out``/frontier.svg and .html."""
    section = candidates(found)
    write_text(out / "frontier.svg", standing_alone(section.figures[0].svg))
    write_text(out / "frontier.html", page("Frontier", found.told(milliseconds), [section]))
