"""How long work speaks to whoever started it; the command line's console is one, silence another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


class Reporter(Protocol):
    def say(self, text: str) -> None:
        """A remark on the way."""

    def warn(self, text: str) -> None:
        """Something the user must know."""

    def progress(self, label: str) -> AbstractContextManager[Callable[..., Any]]:
        """Gives ``step(done, total, loss)`` to call as the work goes on."""


class Silent:
    """Says nothing; warnings are found in what the work returns."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., Any]]:
        yield lambda *args: None


def quarters(tell: Callable[[int, int, float | None], None]) -> Callable[..., None]:
    """A progress step that tells at the start and at each quarter: for places where bars would do harm."""
    told = -1

    def step(done: int, total: int, loss: float | None = None) -> None:
        nonlocal told
        quarter = 4 * done // max(total, 1)
        if quarter > told:
            told = quarter
            tell(done, total, loss)

    return step


@dataclass(frozen=True)
class Named:
    """Speaks of one task of many; without ``bars`` it shows no progress (several would write over each other)."""

    reporter: Reporter
    name: str
    bars: bool = True

    def say(self, text: str) -> None:
        self.reporter.say(f"{self.name}: {text}")

    def warn(self, text: str) -> None:
        self.reporter.warn(f"{self.name}: {text}")

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., Any]]:
        if not self.bars:
            yield lambda *args: None
            return
        with self.reporter.progress(f"{self.name}: {label}") as step:
            yield step
