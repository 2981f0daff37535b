"""How work in progress is shown on standard error: a bar on a terminal, lines elsewhere; and tables as text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import click

from mvp_deploy.base.reporter import quarters


@contextmanager
def progress(label: str) -> Iterator[Callable[..., Any]]:
    """Yields ``step(done, total, loss=None)``.

    It draws a bar on a terminal (if rich is installed), else it prints a line at the start and at each quarter.
    """
    if sys.stderr.isatty() and find_spec("rich") is not None:  # a device has click and numpy alone
        with _bar(label) as step:
            yield step
    else:
        yield _lines(label)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The table as text, columns padded to their widest cell; the first is aligned left, the others right."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _lines(label: str) -> Callable[..., Any]:
    began: tuple[float, int] | None = None  # what precedes the first step does not predict the others

    def tell(done: int, total: int, loss: float | None) -> None:
        nonlocal began
        now = time.monotonic()
        left = (now - began[0]) * (total - done) / (done - began[1]) if began and done > began[1] else 0.0
        began = began or (now, done)
        soon = f", about {left:.0f} s left" if left > 1 else ""
        click.echo(f"{label}: {done}/{total}{_loss(loss)}{soon}", err=True)

    return quarters(tell)


def _loss(loss: float | None) -> str:
    return "" if loss is None else f", loss {loss:.3f}"


@contextmanager
def _bar(label: str) -> Iterator[Callable[..., Any]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    times = TimeElapsedColumn(), TimeRemainingColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=Console(stderr=True)) as shown:
        bar = shown.add_task(label, total=None, loss="")

        def step(done: int, total: int, loss: float | None = None) -> None:
            shown.update(bar, completed=done, total=total, loss=_loss(loss))

        yield step
