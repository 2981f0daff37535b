"""What a board is, and in what state it was when something was timed: clocks, power mode, temperatures, throttling.

Read from where Linux and the boards' own tools tell it, with the standard library alone; what a board does not tell is
left out. Paths start at ``root``, so that a board can be described by a folder.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/")
PATIENCE = 5.0  # seconds for a board's own tool
# vcgencmd get_throttled: what holds the clocks of a Raspberry Pi back now; since the boot, the same 16 bits higher.
PI = {0: "under-voltage", 1: "the ARM frequency is capped", 2: "throttled", 3: "the soft temperature limit"}
HOLDS_BACK = re.compile(r"cpufreq|devfreq|processor|throttle", re.IGNORECASE)  # cooling devices that lower clocks


@dataclass(frozen=True)
class Board:
    """What does not change between two measurements."""

    model: str
    soc: str
    memory: int | None  # bytes
    os: str
    kernel: str
    drivers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What does."""

    governors: tuple[str, ...] = ()  # of the CPU cores, each once
    clocks_mhz: tuple[float, ...] = ()  # of each core
    highest_mhz: float | None = None
    power_mode: str | None = None  # Jetson's nvpmodel
    jetson_clocks: bool | None = None  # whether Jetson's clocks are fixed at their highest
    temperatures: dict[str, float] = field(default_factory=dict)  # degrees Celsius
    counters: dict[str, int] = field(default_factory=dict)  # of throttling events, where the system counts them
    held_back: tuple[str, ...] = ()  # what lowers the clocks at this moment


def board(root: Path = ROOT) -> Board:
    """This machine."""
    tree, dmi = root / "proc/device-tree", root / "sys/class/dmi/id"
    model = text(tree / "model") or " ".join(
        filter(None, (text(dmi / name) for name in ("board_vendor", "board_name")))
    )
    compatible = text(tree / "compatible").replace("\0", " ").split()
    memory = re.search(r"^MemTotal:\s+(\d+)", text(root / "proc/meminfo"), re.MULTILINE)
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', text(root / "etc/os-release"), re.MULTILINE)
    return Board(
        model=model or "not told",
        soc=compatible[-1] if compatible else text(root / "sys/devices/soc0/soc_id") or platform.processor(),
        memory=1024 * int(memory[1]) if memory else None,
        os=name[1] if name else platform.system(),
        kernel=f"{platform.release()} {platform.machine()}",
        drivers=dict(_drivers(root)),
    )


def state(root: Path = ROOT) -> State:
    """In what state it is now."""
    cores = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"))
    clocks = [number(core / "scaling_cur_freq") for core in cores]
    highest = [number(core / "cpuinfo_max_freq") for core in cores]
    jetson = text(root / "etc/nv_tegra_release")
    return State(
        governors=tuple(dict.fromkeys(filter(None, (text(core / "scaling_governor") for core in cores)))),
        clocks_mhz=tuple(value / 1000 for value in clocks if value is not None),
        highest_mhz=max((value / 1000 for value in highest if value is not None), default=None),
        power_mode=_power_mode(_tool(root, "nvpmodel", "-q")) if jetson else None,
        jetson_clocks=_fixed(cores) if jetson else None,
        temperatures=dict(_temperatures(root)),
        counters=dict(_counters(root)),
        held_back=tuple(_held_back(root)),
    )


def throttled(before: State, after: State) -> tuple[str, ...]:
    """What lowered the clocks between two states, as far as the board tells; () where nothing did."""
    counted = [name for name, count in after.counters.items() if count > before.counters.get(name, 0)]
    return tuple(dict.fromkeys([*counted, *after.held_back]))


def differs(asked: Mapping[str, str | bool], found: State) -> list[str]:
    """What of a state is not as asked (``governor``, ``power_mode``, ``jetson_clocks``), each with its cure."""
    wrong = []
    governor, mode, clocks = (asked.get(name) for name in ("governor", "power_mode", "jetson_clocks"))
    if governor is not None and found.governors != (governor,):
        cure = f"echo {governor} | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        wrong.append(f"the governor is {' and '.join(found.governors) or 'not told'}, not {governor}: run `{cure}`")
    if mode is not None and found.power_mode != mode:
        wrong.append(f"the power mode is {found.power_mode or 'not told'}, not {mode}: see `sudo nvpmodel -m`")
    if clocks is not None and found.jetson_clocks != clocks:
        state = {True: "fixed", False: "not fixed", None: "not told to be fixed or not"}[found.jetson_clocks]
        wrong.append(f"the clocks are {state}: run `sudo jetson_clocks{'' if clocks else ' --restore'}`")
    return wrong


def _drivers(root: Path) -> Iterator[tuple[str, str]]:
    if nvidia := re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", text(root / "proc/driver/nvidia/version")):
        yield "nvidia", nvidia[1]
    if tegra := text(root / "etc/nv_tegra_release"):
        yield "L4T", tegra.splitlines()[0].strip("# ")


def _power_mode(told: str) -> str | None:
    found = re.search(r"NV Power Mode:\s*(\S+)", told)
    return found[1] if found else None


def _fixed(cores: list[Path]) -> bool | None:
    """jetson_clocks sets each core's lowest clock to its highest; asking the tool itself needs root."""
    if not cores:
        return None
    return all(number(core / "scaling_min_freq") == number(core / "scaling_max_freq") for core in cores)


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = number(zone / "temp")
        if value is not None and -50_000 < value < 200_000:  # sensors that are off say anything
            yield text(zone / "type") or zone.name, value / 1000
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        value = number(chip / "temp1_input")
        if value is not None and -50_000 < value < 200_000:
            yield f"{text(chip / 'name') or chip.name} sensor", value / 1000


def _counters(root: Path) -> Iterator[tuple[str, int]]:
    for kind in ("core", "package"):  # x86
        files = root.glob(f"sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/{kind}_throttle_count")
        counts = [value for file in files if (value := number(file)) is not None]
        if counts:
            yield f"thermal limit of the CPU ({kind})", int(sum(counts))
    flags = _pi(root)
    if flags is not None:
        for bit, what in PI.items():
            yield f"{what}, since the boot", flags >> (16 + bit) & 1


def _held_back(root: Path) -> Iterator[str]:
    flags = _pi(root) or 0
    yield from (what for bit, what in PI.items() if flags >> bit & 1)
    for device in sorted(root.glob("sys/class/thermal/cooling_device*")):
        kind = text(device / "type")
        if HOLDS_BACK.search(kind) and (number(device / "cur_state") or 0) > 0:
            yield f"cooling by {kind}"


def _pi(root: Path) -> int | None:
    found = re.search(r"0x([0-9a-fA-F]+)", _tool(root, "vcgencmd", "get_throttled"))
    return int(found[1], 16) if found else None


def _tool(root: Path, *call: str) -> str:
    """What a board's own tool says; nothing if there is none."""
    if root != ROOT:
        return text(root / "tools" / call[0])
    try:
        done = subprocess.run(call, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def text(path: Path) -> str:
    """What a file of the system says; nothing if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def number(path: Path) -> float | None:
    """The number that a file of the system holds; None if it holds none."""
    try:
        return float(text(path))
    except ValueError:
        return None
