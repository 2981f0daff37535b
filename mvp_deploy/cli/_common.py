"""What commands share: the options --device, --seed, --json and --quiet, and one way to speak to the user."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import click

from mvp_deploy.base.progress import plain_table, progress
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

    def next(self, command: str, program: str = "mvp-deploy") -> None:
        """The last line for people: what to call now; not printed with --json or --quiet."""
        if not self.quiet:
            self.show(f"\nNext: {program} {command}")

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
        """A bar on a terminal (with rich, if installed), else a line at the start and at each quarter."""
        if self.quiet:
            yield lambda done, total, loss=None: None
        else:
            with progress(label) as step:
                yield step


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


def resumes(function: Callable[..., Any]) -> Callable[..., Any]:
    """For commands that go on where they stopped: Ctrl-C says so, at any moment. Stands right above the command."""

    @functools.wraps(function)
    def command(*, console: Console, **arguments: Any) -> Any:
        try:
            return function(console=console, **arguments)
        except KeyboardInterrupt:
            console.warn("interrupted: call it again with the same arguments, and it goes on from here.")
            raise

    return command
