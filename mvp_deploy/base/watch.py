"""What disturbs a measurement while it is taken: other processes, and clocks that the board lowers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mvp_deploy.base import board
from mvp_deploy.base.environment import other_work

COOL_DOWN = 90.0  # seconds at most to wait for a board whose clocks were lowered
WARMER = 3.0  # degrees above the first temperature at which it is cool again


@dataclass(frozen=True)
class Seen:
    """others: cores that other processes kept busy, None if the system does not tell. throttled: see `board`."""

    others: float | None = None
    throttled: tuple[str, ...] = ()


@contextmanager
def watched() -> Iterator[list[Seen]]:
    """Afterwards the list holds what was seen meanwhile."""
    found: list[Seen] = []
    before = board.state()
    with other_work() as others:
        yield found
    found.append(Seen(others[0] if others else None, board.throttled(before, board.state())))


def cool_down(
    first: board.State,
    state: Callable[[], board.State] = board.state,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until a board is about as cool as in its first state; not longer than COOL_DOWN."""
    goal = max(first.temperatures.values(), default=0.0) + WARMER
    waited = 0.0
    while waited < COOL_DOWN and (waited == 0 or max(state().temperatures.values(), default=0.0) > goal):
        sleep(5.0)
        waited += 5.0
