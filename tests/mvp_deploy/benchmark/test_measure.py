from __future__ import annotations

import numpy as np
import pytest

from mvp_deploy.base.errors import MvpError
from mvp_deploy.benchmark.measure import Session, Settings, Timing, session, speed_up, timing

BATCH = np.zeros((4, 3, 8, 8), np.float32)
SETTINGS = Settings(duration=2.5, window=0.1, warm_up=0.2)


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
    """What as many sessions on one machine as there would be processes say of runners that take so long."""
    machine = Machine()
    runners = [Scripted(machine, "AB"[i], s) for i, s in enumerate(seconds)]
    return together(runners, machine, settings), machine


def together(runners: list, machine: Machine, settings: Settings = SETTINGS) -> list[Timing]:
    looks = [session(runners, BATCH, settings, first=n, clock=machine.clock) for n in range(settings.processes)]
    return [timing(found, len(BATCH), settings) for found in zip(*looks, strict=True)]


def noisy(mean: float, seed: int, share: float):
    random = np.random.default_rng(seed)
    return lambda now: mean * float(random.lognormal(0, share))


def test_known_latencies_come_out() -> None:
    (slow, fast), _ = run(lambda now: 0.010, lambda now: 0.004)
    for found, expected in ((slow, 10.0), (fast, 4.0)):
        values = (found.p50, found.p90, found.p95, found.p99, found.mean, found.median.value)
        assert values == pytest.approx([expected] * 6)
        assert found.throughput == pytest.approx(1000 * 4 / expected)
        assert found.parts["compute"] == pytest.approx(expected / 2)
        assert found.stable
        assert len(found.windows) == SETTINGS.processes
    assert speed_up(slow, fast).value == pytest.approx(2.5)


def test_models_take_turns_and_lead_alternately_in_the_next_process_the_other_way_round() -> None:
    machine = Machine()
    runners = [Scripted(machine, name, lambda now: 0.06) for name in "AB"]
    for first, expected in ((0, "AAABBBBBBAAAAAABBB"), (1, "BBBAAAAAABBBBBBAAA")):
        machine.order.clear()
        session(runners, BATCH, SETTINGS, first=first, clock=machine.clock)
        warm_up = 5  # runs of each
        assert "".join(machine.order[2 * warm_up :]).startswith(expected)  # one untimed and two timed runs a turn


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6])
def test_how_long_is_looked_is_settled_before_and_not_by_what_is_found(share: float) -> None:
    found, _ = run(noisy(0.01, 0, share), noisy(0.01, 1, share))
    for each in found:
        spent = each.mean * each.runs / 1000
        assert SETTINGS.duration <= spent < 1.5 * SETTINGS.duration  # a window may end late by one run
    assert found[0].stable == (share == 0.01)


@pytest.mark.parametrize("autocorrelation", [0.0, 0.9])
def test_intervals_hold_the_truth_though_the_windows_of_a_process_depend_on_each_other(autocorrelation: float) -> None:
    """Each process has a level of its own (2 %), and drifts about it; the truth is what many processes have."""
    random = np.random.default_rng(0)

    def look() -> Session:
        steps = random.normal(0, 0.02 * np.sqrt(1 - autocorrelation**2), 12)
        drift = np.zeros(12)
        for turn in range(1, 12):
            drift[turn] = autocorrelation * drift[turn - 1] + steps[turn]
        windows = 5.0 * np.exp(random.normal(0, 0.02) + drift)
        return Session(tuple(windows / 1000), tuple(windows), {})

    found = [timing([look() for _ in range(5)], 1).median for _ in range(1000)]
    assert 0.93 <= np.mean([each.low <= 5.0 <= each.high for each in found]) <= 0.97


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
    for found in together(runners, machine):
        assert found.p99 == pytest.approx(10.0)


def test_even_a_run_longer_than_the_limit_gives_three_windows_in_each_process() -> None:
    (found,), _ = run(lambda now: 30.0)
    assert [len(windows) for windows in found.windows] == [3] * SETTINGS.processes


def test_one_process_and_senseless_durations_are_refused() -> None:
    with pytest.raises(MvpError, match="processes is 1: it must be from 2"):
        Settings(processes=1)
    for duration in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MvpError, match=r"duration is .*: it must be"):
            Settings(duration=duration)
