"""What commands share: the options --device, --seed, --json and --quiet, and one way to speak to the user."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import click

from mvp_deploy.base.reporter import quarters
from mvp_deploy.cli._types import SEEDS, Device


class Step(Protocol):
    """Tells how far a piece of work is; fits ``training.fit``'s ``progress``."""

    def __call__(self, done: int, total: int, loss: float | None = None) -> None: ...


@dataclass(frozen=True)
class Console:
    """Results go to stdout (as JSON when asked), remarks and progress to stderr."""

    json: bool = False
    quiet: bool = False

    def say(self, text: str) -> None:
        """A remark on the way; silent with --quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Something the user must know, even with --quiet."""
        click.echo(f"Warning: {text}", err=True)

    def show(self, text: str) -> None:
        """Part of the result for people; not printed with --json."""
        if not self.json:
            click.echo(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table for people: the first column is aligned left, the others right; not printed with --json."""
        if not self.json:
            click.echo(plain_table(columns, rows))

    def result(self, data: object) -> None:
        """The result for machines: with --json, the one thing on stdout."""
        if self.json:
            click.echo(json.dumps(data, indent=2, allow_nan=False))

    @contextmanager
    def progress(self, label: str) -> Iterator[Step]:
        """A bar on a terminal (with rich, where installed), else a line at the start and at each quarter."""
        if self.quiet:
            yield lambda done, total, loss=None: None
        elif sys.stderr.isatty() and _rich():
            with _bar(label) as step:
                yield step
        else:
            yield _lines(label)


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add all shared options; the command receives ``device: str``, ``seed: int``, ``console: Console``."""

    @click.option("--device", default="auto", show_default=True, type=Device(), help="auto, cpu, cuda or cuda:N.")
    @click.option("--seed", default=0, show_default=True, type=SEEDS, help="For everything that is drawn at random.")
    @output_options
    @functools.wraps(function)
    def command(**arguments: Any) -> Any:
        return function(**arguments)

    return command


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json and --quiet alone; the command receives ``console: Console``."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @click.option("--quiet", "-q", is_flag=True, help="No remarks and no progress.")
    @functools.wraps(function)
    def command(as_json: bool, quiet: bool, **arguments: Any) -> Any:
        return function(console=Console(as_json, quiet), **arguments)

    return command


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The table as text, columns padded to their widest cell."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _lines(label: str) -> Step:
    began = time.monotonic()

    def tell(done: int, total: int, loss: float | None) -> None:
        left = (time.monotonic() - began) * (total - done) / done if done else 0.0
        soon = f", about {left:.0f} s left" if left > 1 else ""
        click.echo(f"{label}: {done}/{total}{_loss(loss)}{soon}", err=True)

    return quarters(tell)


def _loss(loss: float | None) -> str:
    return "" if loss is None else f", loss {loss:.3f}"


def _rich() -> bool:
    from importlib.util import find_spec

    return find_spec("rich") is not None  # a device has click and numpy alone


@contextmanager
def _bar(label: str) -> Iterator[Step]:
    from rich.console import Console as RichConsole
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
    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=RichConsole(stderr=True)) as progress:
        bar = progress.add_task(label, total=None, loss="")

        def step(done: int, total: int, loss: float | None = None) -> None:
            progress.update(bar, completed=done, total=total, loss=_loss(loss))

        yield step
