"""Core ML on macOS; needs coremltools and numpy alone. Written from its documentation: it has not run on a Mac yet."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mvp_deploy.base.errors import EnvironmentMissing, InputError, first_line

UNITS = {"cpu": "CPU_ONLY", "auto": "ALL"}  # ALL: Core ML chooses among CPU, GPU and Neural Engine


class CoreMlRunner:
    """An .mlpackage for one image; a batch is run image by image."""

    def __init__(self, path: Path, units: str) -> None:
        from coremltools import ComputeUnit
        from coremltools.models import MLModel

        try:
            self._model: Any = MLModel(str(path), compute_units=ComputeUnit[units])
            (given,), (found,) = (getattr(self._model.get_spec().description, name) for name in ("input", "output"))
        except Exception as error:  # Core ML's compiler and the reader of packages raise what they like
            raise InputError(f"Core ML cannot load {path.name}: {first_line(error)}") from error
        self._input, self._output = given.name, found.name
        _, channels, height, width = map(int, given.type.multiArrayType.shape)
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        self._images: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self.name = "coreml CPU" if units == "CPU_ONLY" else "coreml all units"
        self.details: Mapping[str, str] = {
            "runtime": f"coremltools {version('coremltools')}",
            "device": units,
            "batch": "one image at a time",
        }

    def prepare(self, batch: np.ndarray) -> None:
        self._images = np.split(np.ascontiguousarray(batch), len(batch))

    def run(self) -> None:
        self._logits = [self._model.predict({self._input: image})[self._output] for image in self._images]

    def output(self) -> np.ndarray:
        return np.concatenate(self._logits)

    def close(self) -> None:
        del self._model


def open_runner(path: Path, *, threads: int | None, device: str) -> CoreMlRunner:
    if sys.platform != "darwin":
        raise EnvironmentMissing(f"{path.name} needs Core ML, which runs on macOS alone: take the bundle to a Mac.")
    if threads is not None:
        raise EnvironmentMissing("Core ML chooses its number of threads: leave out --threads.")
    if device not in UNITS:
        raise EnvironmentMissing(f"{device} was asked for, and Core ML takes --device cpu or auto.")
    return CoreMlRunner(path, UNITS[device])
