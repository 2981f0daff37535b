"""What a measurement was taken on: the machine and the versions, with the standard library alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "mvp-deploy", "numpy", "onnxruntime", "torch", "timm", "onnx", "openvino", "coremltools", "executorch",
    "litert-torch", "ai-edge-litert", "MNN", "ncnn", "pnnx", "tensorrt",
)  # fmt: skip


def environment() -> dict[str, object]:
    """CPU, cores, system, Python and the versions of the packages that matter, as JSON values."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
    }


def commit() -> str | None:
    """The git commit of the current folder, with «-dirty» where files differ from it; None outside of git."""
    call = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = subprocess.run(call, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def versions() -> dict[str, str]:
    """The installed versions of the packages that a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, as the system gives it; a small board's own name where the CPU has none."""
    board = Path("/proc/device-tree/model")
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    if board.exists():
        return board.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return platform.processor() or platform.machine()


@contextmanager
def other_work() -> Iterator[list[float]]:
    """Afterwards the list holds how many cores other processes kept busy meanwhile; nothing if it is not told.

    Counted on the cores this process may use, and with what a hypervisor took away (Linux).
    """
    found: list[float] = []
    begin, busy, own = time.perf_counter(), _busy_seconds(), time.process_time()
    yield found
    after = _busy_seconds()
    if busy is not None and after is not None:
        others = (after - busy) - (time.process_time() - own)
        found.append(max(0.0, others / (time.perf_counter() - begin)))


@contextmanager
def loudest() -> Iterator[list[str]]:
    """Afterwards the list names the three other processes that worked most meanwhile: «make 0.93 cores» (Linux)."""
    found: list[str] = []
    begin, before = time.perf_counter(), _seconds_of_processes()
    yield found
    seconds = time.perf_counter() - begin
    worked = {
        name: (spent - before.get((pid, name), 0.0)) / seconds
        for (pid, name), spent in _seconds_of_processes().items()
        if pid != os.getpid()
    }
    busiest = sorted(worked, key=worked.__getitem__, reverse=True)[:3]
    found += [f"{name} {worked[name]:.2f} cores" for name in busiest if worked[name] >= 0.05]


def _seconds_of_processes() -> dict[tuple[int, str], float]:
    """The seconds that each process has worked, by number and name; what may not be read is left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        ticks = rest.split()[11:13]  # utime and stime
        found[int(folder.name), name] = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return found


def _busy_seconds() -> float | None:
    """Seconds that this process's cores have worked since the machine started."""
    ours = {f"cpu{index}" for index in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
    rows = [line.split() for line in _lines(Path("/proc/stat"))]
    # user, nice, system, idle, iowait, irq, softirq, steal: all but idle and iowait
    ticks = [sum(map(int, [*row[1:4], *row[6:9]])) for row in rows if row and row[0] in ours]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def peak_memory() -> int | None:
    """The most RAM this process has held, in bytes; None if the system does not say (not Linux)."""
    return _status("VmHWM")


def resident_memory() -> int | None:
    """The RAM this process holds now, in bytes; None if the system does not say (not Linux)."""
    return _status("VmRSS")


def _status(key: str) -> int | None:
    for line in _lines(Path("/proc/self/status")):
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return None


def _lines(path: Path) -> list[str]:
    return (
        path.read_text(encoding="utf-8", errors="replace").splitlines()
        if sys.platform == "linux" and path.exists()
        else []
    )
