"""Times that nobody measured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def in_two_processes(milliseconds: Iterable[float]) -> np.ndarray:
    """As `judge.time_files` gives them, the same in both: float64 [file, 2]."""
    return np.repeat([*milliseconds], 2).reshape(-1, 2)
