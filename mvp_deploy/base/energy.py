"""Energy as a board tells it: Intel's and AMD's counters (RAPL), or power sensors of the INA family, as on Jetsons.

Both tell of a whole package or board, with what it takes when idle. RAPL's files are often for root alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvp_deploy.base.board import ROOT, number, text

STEP = 0.02  # seconds between two readings of power


def is_told(root: Path = ROOT) -> bool:
    """Whether this machine tells its energy to this user."""
    return bool(_counters(root)) or _watts(root) is not None


@contextmanager
def metered(root: Path = ROOT) -> Iterator[list[float]]:
    """Afterwards the list holds the joules that went meanwhile; nothing where they are not told."""
    found: list[float] = []
    before = _counters(root)
    sampler = None if before else _Sampler(root)
    start = time.perf_counter()
    yield found
    seconds = time.perf_counter() - start
    if sampler is not None:
        watts = sampler.end()
        if watts:
            found.append(seconds * sum(watts) / len(watts))
        return
    after = _counters(root)
    if before.keys() == after.keys():
        found.append(sum(_grown(before[zone], after[zone], zone) for zone in before) / 1e6)


class _Sampler(threading.Thread):
    """Reads the power again and again."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self.root, self.watts, self.done = root, list[float](), threading.Event()
        self.start()

    def run(self) -> None:
        while not self.done.wait(STEP):
            if (watts := _watts(self.root)) is not None:
                self.watts.append(watts)

    def end(self) -> list[float]:
        self.done.set()
        self.join()
        return self.watts


def _counters(root: Path) -> dict[Path, float]:
    """Microjoules of each CPU package; its parts are in it already."""
    found = {}
    for zone in sorted(root.glob("sys/class/powercap/*-rapl:[0-9]*")):
        value = number(zone / "energy_uj")
        if zone.name.count(":") == 1 and value is not None:
            found[zone] = value
    return found


def _grown(before: float, after: float, zone: Path) -> float:
    """How far a counter went, which begins again at zero once it has reached its range."""
    return after - before if after >= before else after - before + (number(zone / "max_energy_range_uj") or 0)


def _watts(root: Path) -> float | None:
    """What goes into the board: the input's channel where one is named so, else all channels together."""
    channels: dict[str, float] = {}
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if not text(chip / "name").lower().startswith("ina"):
            continue
        for place in range(1, 9):
            name = text(chip / f"in{place}_label") or f"{chip.name} {place}"
            power = number(chip / f"power{place}_input")  # microwatts
            volts, amperes = number(chip / f"in{place}_input"), number(chip / f"curr{place}_input")  # milli both
            if power is not None:
                channels[name] = power / 1e6
            elif volts is not None and amperes is not None:
                channels[name] = volts * amperes / 1e6
    whole = [watts for name, watts in channels.items() if name.upper().endswith("_IN")]
    return sum(whole or channels.values()) if channels else None
