from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_deploy.benchmark.statistics import (
    Interval,
    at_least,
    at_most,
    mean_interval,
    paired_change,
    ratio_interval,
    student,
    unpaired_change,
)

positive = st.lists(st.floats(0.01, 100), min_size=2, max_size=20)


def holds(truth: float, draw: Callable[[np.random.Generator], Interval], draws: int = 2000) -> float:
    """The share of the drawn intervals in which the truth lies."""
    rng = np.random.default_rng(0)
    return float(np.mean([found.low <= truth <= found.high for found in (draw(rng) for _ in range(draws))]))


@pytest.mark.parametrize("n", [4, 8, 20])
def test_intervals_of_few_values_hold_the_truth_as_often_as_they_say(n: int) -> None:
    assert 0.93 <= holds(0.3, lambda rng: mean_interval(rng.normal(0.3, 1, n))) <= 0.97
    assert 0.93 <= holds(2.0, lambda rng: ratio_interval(2 * rng.lognormal(0, 0.1, n))) <= 0.97


def test_a_change_on_the_same_images_is_held_as_often_as_said_and_told_sooner_than_on_others() -> None:
    def answers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Of 300 images 12 % are gained and 6 % lost."""
        kind = rng.random(300)
        return kind >= 0.12, (kind < 0.12) | (kind >= 0.18)

    def unpaired(rng: np.random.Generator) -> Interval:
        before, now = answers(rng)
        return unpaired_change(before.mean(), 300, now.mean(), 300)

    assert 0.93 <= holds(0.06, lambda rng: paired_change(*answers(rng))) <= 0.97
    before, now = (np.arange(300) >= n for n in (40, 30))
    paired, other = paired_change(before, now), unpaired_change(before.mean(), 300, now.mean(), 300)
    assert paired.value == pytest.approx(other.value)
    assert paired.surely_above(0)
    assert not other.surely_above(0)


def test_student_agrees_with_the_tables() -> None:
    tables = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 30: 2.042, 120: 1.980}
    assert [student(degrees) for degrees in tables] == pytest.approx(list(tables.values()), rel=2e-3)


@given(positive)
def test_an_interval_lies_around_its_value_and_a_ratio_turned_round_has_its_own_turned_round(
    values: list[float],
) -> None:
    found, inverse = ratio_interval(values), ratio_interval([1 / value for value in values])
    assert 0 < found.low <= found.value * (1 + 1e-9)
    assert found.value <= found.high * (1 + 1e-9)
    assert inverse.low == pytest.approx(1 / found.high)
    assert mean_interval(values).value == pytest.approx(np.mean(values))


@given(st.floats(0.1, 10), st.floats(0, 1), st.floats(0.1, 10), st.floats(0, 1))
def test_what_can_be_said_of_a_quotient_can_be_said_of_every_value_in_it(
    one: float, wide: float, other: float, less_wide: float
) -> None:
    upper, lower = Interval(one, one, one + wide), Interval(other, other, other + less_wide)
    quotient = upper.over(lower)
    assert quotient.low <= upper.low / lower.high
    assert quotient.high >= upper.high / lower.low
    assert at_most(quotient.high).met_by(quotient)
    assert at_least(quotient.low).met_by(quotient)
