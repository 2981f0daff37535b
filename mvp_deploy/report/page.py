"""A report as one HTML page of sections with text, tables and inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, Template

from mvp_deploy.report.pictures import Picture


@dataclass(frozen=True)
class Figure:
    """An SVG made by ``report.plots``, and the sentence that says what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Cells as text; ``highlight`` is the index of the row that matters."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    highlight: int | None = None
    folded: str = ""  # what a reader clicks to see a long table; empty: it is shown

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds numbers: those are aligned right."""
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.columns)
        return [all(not cell or cell[0] in "-+0123456789" for cell in column) for column in columns]


@dataclass(frozen=True)
class Section:
    """A part of the page; what is empty is left out."""

    title: str
    text: str = ""
    table: Table | None = None
    figures: Sequence[Figure] = ()
    pictures: Sequence[Picture] = ()
    link: str = ""  # of the bundle's folder, relative to the page


BAD = {"failed", "error", "too noisy to tell", "not measured", "regression"}


def page(title: str, lead: str, sections: Sequence[Section], link: str = "") -> str:
    """The page's HTML. Everything but the figures is escaped. link: of the bundle's folder, relative to the page."""
    return _template().render(title=title, lead=lead, sections=sections, link=link, bad=BAD)


@cache
def _template() -> Template:
    source = resources.files("mvp_deploy.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
