"""How often the program's 95 % intervals hold the truth, by simulation (seeded; a minute).

python benchmarks/statistics/coverage.py
"""

from __future__ import annotations

from collections.abc import Callable

import click
import numpy as np

from mvp_deploy.bank.evaluate import ALL, LONGER, RANDOM, judge
from mvp_deploy.benchmark.statistics import Interval, mean_interval, paired_change, ratio_interval

Draw = Callable[[np.random.Generator], tuple[Interval, float]]  # an interval and the truth it should hold


def gain_of_a_task_mean(tasks: int) -> Draw:
    """`bank evaluate`: a gain over tasks, normal with a spread as wide as the gain."""
    return lambda rng: (mean_interval(rng.normal(0.03, 0.03, tasks)), 0.03)


def gain_of_the_arm_to_use(tasks: int, apart: float) -> Draw:
    """`bank evaluate`'s verdict: five arms that differ by ``apart`` each, of which it names one."""

    def draw(rng: np.random.Generator) -> tuple[Interval, float]:
        own = rng.normal(0.6, 0.1, tasks)
        names = [ALL, *(f"neighbours={n}" for n in (1, 3, 5, 10))]
        truth = {name: apart * place for place, name in enumerate(names)}
        table = {name: own + gain + rng.normal(0, 0.03, tasks) for name, gain in truth.items()}
        table |= {RANDOM: own} | {f"own x{times}": own for times in LONGER}
        found = judge(table, "default", 20)
        named = " ".join(found.settings) or ALL
        return found.gain, truth[named] if found.helps else _nearest(found.gain.value, table, truth, own)

    return draw


def _nearest(value: float, table: dict[str, np.ndarray], truth: dict[str, float], own: np.ndarray) -> float:
    """The truth of the arm whose mean gain was told, where the verdict names none."""
    return truth[min(truth, key=lambda name: abs(float((table[name] - own).mean()) - value))]


def speed_up_of_processes(processes: int) -> Draw:
    """A speed-up from processes that differ by 3 %: where memory lay, which core it was."""
    return lambda rng: (ratio_interval(2.0 * rng.lognormal(0, 0.03, processes)), 2.0)


def accuracy_change(images: int, gained: float, lost: float) -> Draw:
    """A baseline gate: of ``images``, shares that were wrong and are right, and the reverse."""

    def draw(rng: np.random.Generator) -> tuple[Interval, float]:
        kind = rng.random(images)
        before, now = kind >= gained, (kind < gained) | (kind >= gained + lost)
        return paired_change(before, now), gained - lost

    return draw


CASES: dict[str, Draw] = (
    {f"bank evaluate, the recipe as it is, {n} tasks": gain_of_a_task_mean(n) for n in (4, 8, 20)}
    | {
        f"bank evaluate's verdict, {n} tasks, arms {100 * apart:.1f} points apart": gain_of_the_arm_to_use(n, apart)
        for n in (4, 8, 20)
        for apart in (0.0, 0.005, 0.02)
    }
    | {f"speed-up of {n} processes": speed_up_of_processes(n) for n in (4, 5, 8, 20)}
    | {
        f"accuracy change on {n} images, {gained:.0%} gained, {lost:.0%} lost": accuracy_change(n, gained, lost)
        for n in (50, 300, 1000)
        for gained, lost in ((0.02, 0.02), (0.05, 0.02), (0.1, 0.1))
    }
)


def coverage(draw: Draw, draws: int = 2000, seed: int = 0) -> float:
    """The share of the intervals that hold the truth."""
    rng = np.random.default_rng(seed)
    found = [draw(rng) for _ in range(draws)]
    return float(np.mean([interval.low <= truth <= interval.high for interval, truth in found]))


@click.command()
@click.option("--draws", default=2000, show_default=True, type=click.IntRange(100))
def main(draws: int) -> None:
    print("| interval | holds the truth |\n| --- | ---: |")
    for name, draw in CASES.items():
        print(f"| {name} | {coverage(draw, draws):.1%} |")


if __name__ == "__main__":
    main()
