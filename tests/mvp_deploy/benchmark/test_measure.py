from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_deploy.benchmark.measure import Settings, measure, speed_up
from mvp_deploy.benchmark.statistics import median_interval

BATCH = np.zeros((4, 3, 8, 8), np.float32)
SETTINGS = Settings(duration=5.0, window=0.1, warm_up=0.2)


class Machine:
    """A clock that only runs advance, and the order in which they did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def clock(self) -> float:
        return self.now


class Scripted:
    """Takes the seconds it is told to, as a function of the time."""

    image_shape = (3, 8, 8)

    def __init__(self, machine: Machine, name: str, seconds) -> None:
        self.machine, self.name, self.seconds = machine, name, seconds
        self.details: dict[str, str] = {}
        self.prepared: np.ndarray | None = None

    def prepare(self, batch: np.ndarray) -> None:
        self.prepared = batch

    def run(self) -> dict[str, float]:
        self.machine.order.append(self.name)
        took = self.seconds(self.machine.now)
        self.machine.now += took
        return {"compute": took / 2}

    def output(self) -> np.ndarray:
        return np.zeros((len(BATCH), 2))

    def close(self) -> None: ...


def run(*seconds, settings: Settings = SETTINGS):
    machine = Machine()
    runners = [Scripted(machine, "AB"[i], s) for i, s in enumerate(seconds)]
    return measure(runners, BATCH, settings, clock=machine.clock), machine


def noisy(mean: float, seed: int, share: float):
    random = np.random.default_rng(seed)
    return lambda now: mean * float(random.lognormal(0, share))


def test_known_latencies_come_out() -> None:
    (slow, fast), _ = run(lambda now: 0.010, lambda now: 0.004)
    for timing, expected in ((slow, 10.0), (fast, 4.0)):
        values = (timing.p50, timing.p90, timing.p95, timing.p99, timing.mean, timing.median.value)
        assert values == pytest.approx([expected] * 6)
        assert timing.throughput == pytest.approx(1000 * 4 / expected)
        assert timing.parts["compute"] == pytest.approx(expected / 2)
        assert timing.stable
    assert speed_up(slow, fast).value == pytest.approx(2.5)


def test_models_take_turns_and_lead_alternately() -> None:
    _, machine = run(lambda now: 0.06, lambda now: 0.06)
    text = "".join(machine.order).lstrip("A").lstrip("B")  # after the warm-up
    assert text.startswith("AAABBBBBBAAAAAABBB")  # one untimed and two timed runs a turn; A B, B A, A B


def test_a_stable_machine_is_not_asked_for_long_and_a_noisy_one_up_to_the_limit() -> None:
    (quiet, _), _ = run(noisy(0.01, 0, 0.01), noisy(0.01, 1, 0.01))
    (loud, _), machine = run(noisy(0.01, 0, 1.5), noisy(0.01, 1, 1.5))
    assert quiet.stable
    assert len(quiet.windows) <= 20
    assert not loud.stable
    assert machine.now == pytest.approx(2 * SETTINGS.duration, rel=0.5)


def test_drift_that_hits_both_does_not_touch_the_speed_up() -> None:
    def slowing(mean: float):
        return lambda now: mean * (1 + now / 5)  # three times slower at the end

    (slow, fast), _ = run(slowing(0.010), slowing(0.004))
    assert not slow.stable
    ratio = speed_up(slow, fast)
    assert ratio.value == pytest.approx(2.5, rel=0.05)
    assert ratio.spread < 0.05


def test_a_first_run_slowed_by_the_switch_is_not_timed() -> None:
    machine = Machine()

    class Cold(Scripted):
        def run(self) -> dict[str, float]:
            cold = not self.machine.order or self.machine.order[-1] != self.name
            parts = super().run()
            self.machine.now += 0.05 if cold else 0.0
            return parts

    runners = [Cold(machine, name, lambda now: 0.01) for name in "AB"]
    for timing in measure(runners, BATCH, SETTINGS, clock=machine.clock):
        assert timing.p99 == pytest.approx(10.0)


def test_even_a_run_longer_than_the_limit_gives_three_windows() -> None:
    (timing,), _ = run(lambda now: 30.0)
    assert timing.runs == 3


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30))
def test_an_interval_holds_its_median_and_lies_within_the_values(values: list[float]) -> None:
    interval = median_interval(np.array(values))
    assert min(values) <= interval.low <= interval.value <= interval.high <= max(values)
    assert interval == median_interval(np.array(values))


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    draws = [median_interval(random.normal(1.0, 0.1, 40)) for _ in range(200)]
    assert 0.88 < np.mean([i.low <= 1.0 <= i.high for i in draws]) <= 1.0


def test_windows_that_jump_between_a_few_speeds_are_not_stable_even_if_the_median_is_one_of_them() -> None:
    turn = iter([2, 12, 12, 22, 12, 12] * 1000)

    class Jumping(Scripted):
        def run(self) -> dict[str, float]:
            if not self.machine.order or self.machine.order[-1] != self.name:
                self.pace = next(turn) / 1000
            return super().run()

    machine = Machine()
    runners = [Jumping(machine, "A", lambda now: runners[0].pace), Scripted(machine, "B", lambda now: 0.01)]
    jumping, steady = measure(runners, BATCH, SETTINGS, clock=machine.clock)
    assert jumping.median.spread < SETTINGS.spread
    assert not jumping.stable
    assert steady.stable
