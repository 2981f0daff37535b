"""`mvp.progress`: whether the API's functions say what they do."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import click

from mvp_deploy.base.progress import progress as shown
from mvp_deploy.base.reporter import Reporter, Silent


class _Quiet(Silent):
    """Says nothing but what the caller must know, as Python says it."""

    def warn(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)


class _Told(_Quiet):
    """Remarks and progress go to standard error."""

    progress = staticmethod(shown)

    def say(self, text: str) -> None:
        click.echo(text, err=True)


_current: Reporter = _Quiet()


def reporter() -> Reporter:
    """The reporter for work that starts now."""
    return _current


@dataclass(frozen=True)
class Switch(AbstractContextManager[None]):
    """What `progress` gives: as a context manager it puts things back at its end."""

    before: Reporter

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _set(self.before)


def progress(shown: bool = True) -> Switch:
    """Show remarks and progress of this package's functions on standard error; they are silent by default.

    A plain call switches for the rest of the program, ``with mvp.progress():`` for a block. On a terminal there is a
    bar (with rich), elsewhere a line for each quarter of the work. What a caller must know comes as a Python warning in
    any case.

    Args:
        shown: False switches it off again.

    Examples:
        >>> import mvp_deploy as mvp
        >>> with mvp.progress():
        ...     found = mvp.Bundle(bundle_folder).evaluate("digits#0,1,2")
    """
    switch = Switch(_current)
    _set(_Told() if shown else _Quiet())
    return switch


def _set(reporter: Reporter) -> None:
    global _current
    _current = reporter
