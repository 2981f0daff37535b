"""A measurement during which a board's clocks were lowered is done again, and marked where that helps nothing."""

from __future__ import annotations

from mvp_deploy.base.board import State
from mvp_deploy.base.watch import COOL_DOWN
from mvp_deploy.cli._there import measured

COOL, HOT = State(temperatures={"cpu": 50.0}), State(temperatures={"cpu": 85.0}, held_back=("throttled",))


def play(*states: State):
    """A board that goes through these states and stays in the last."""
    left = list(states)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_throttled_measurement_is_repeated_once_the_board_is_cool() -> None:
    outputs, slept = iter(["first", "second"]), []
    states = play(COOL, HOT, HOT, COOL, COOL)  # before, after, still hot, cool, before the second try
    found = measured(lambda: (0, next(outputs)), 2, state=states, sleep=slept.append)
    assert (found.output, found.tries, found.throttled) == ("second", 2, ())
    assert slept == [5.0, 5.0]


def test_one_that_is_throttled_again_is_marked_and_ends() -> None:
    slept: list[float] = []
    found = measured(lambda: (0, "slow"), 2, state=play(COOL, HOT), sleep=slept.append)
    assert (found.tries, found.throttled) == (2, ("throttled",))
    assert sum(slept) <= COOL_DOWN


def test_a_command_that_failed_is_not_repeated() -> None:
    found = measured(lambda: (5, ""), 2, state=play(COOL, HOT), sleep=lambda seconds: None)
    assert (found.code, found.tries) == (5, 1)
