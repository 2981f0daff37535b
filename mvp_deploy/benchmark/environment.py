"""What a measurement was taken on: the machine and the versions, with the standard library alone."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "mvp-deploy",
    "numpy",
    "onnxruntime",
    "torch",
    "timm",
    "onnx",
    "openvino",
    "executorch",
    "tensorrt",
)


def environment() -> dict[str, object]:
    """CPU, cores, load, system, Python and the versions of the packages that matter, as JSON values."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),  # processes that wanted a core in the last minute
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
    }


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
        return board.read_text(errors="replace").strip("\0\n ")
    return platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """The most RAM this process has held, in bytes; None where the system does not say (not Linux)."""
    return _status("VmHWM")


def resident_memory() -> int | None:
    """The RAM this process holds now, in bytes; None where the system does not say (not Linux)."""
    return _status("VmRSS")


def _status(key: str) -> int | None:
    for line in _lines(Path("/proc/self/status")):
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return None


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if sys.platform == "linux" and path.exists() else []
