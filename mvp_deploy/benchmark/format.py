"""Times as files hold them: a bundle's measurements.json, and a pipeline's times.json and report.json."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvp_deploy.base.formats import Amount, Size, read_as
from mvp_deploy.benchmark.compare import Row
from mvp_deploy.bundle import Bundle
from mvp_deploy.bundle.format import CURE, write_json


@dataclass(frozen=True)
class Machine:
    """What was measured on."""

    cpu: str
    cores: Size
    system: str
    python: str
    versions: dict[str, str]
    others: Amount | None = None  # cores that other processes kept busy; None if not told, or nothing was timed


@dataclass(frozen=True)
class Times:
    environment: Machine
    rows: tuple[Row, ...]
    no_engines: str | None = None  # why engines that were asked for are not timed


def write_times(path: Path, times: Mapping[str, Any]) -> None:
    """Write a file of times that `read_times` takes."""
    write_json(path, times)
    read_times(path)


def read_times(path: str | os.PathLike[str], cure: str = CURE) -> dict[str, Any]:
    """A file of times, checked against `Times`. Raises MvpError if it is damaged; ``cure`` says what to do then."""
    return read_as(path, Times, cure=cure)


def read_measurements(bundle: Bundle) -> dict[str, Any] | None:
    """A bundle's measurements.json; None if nothing was timed when it was written, or other work disturbed it."""
    file = bundle.path / "measurements.json"
    return read_times(file) if file.is_file() else None
