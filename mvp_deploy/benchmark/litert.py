"""LiteRT on the CPU through XNNPACK; needs ai-edge-litert and numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from mvp_deploy.base.environment import cores
from mvp_deploy.base.errors import InputError, first_line
from mvp_deploy.benchmark.runner import require_cpu
from mvp_deploy.exporters.silence import muted


class LiteRtRunner:
    """A model for one image; a batch is run image by image."""

    def __init__(self, path: Path, threads: int | None) -> None:
        try:
            with muted():  # it says that it uses XNNPACK
                self._model = Interpreter(model_path=str(path), num_threads=threads or cores())
                self._model.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"LiteRT cannot load {path.name}: {first_line(error)}") from error
        (given,), (found,) = self._model.get_input_details(), self._model.get_output_details()
        self._input, self._output = given["index"], found["index"]
        _, channels, height, width = map(int, given["shape"])
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        self._images: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self.name = "litert CPU"
        self.details: Mapping[str, str] = {
            "runtime": f"litert {version('ai-edge-litert')}",
            "device": "CPU",
            "threads": str(threads or cores()),
            "batch": "one image at a time",
        }

    def prepare(self, batch: np.ndarray) -> None:
        self._images = np.split(np.ascontiguousarray(batch), len(batch))

    def run(self) -> None:
        self._logits = []
        for image in self._images:
            self._model.set_tensor(self._input, image)
            self._model.invoke()
            self._logits.append(self._model.get_tensor(self._output))

    def output(self) -> np.ndarray:
        return np.concatenate(self._logits)

    def close(self) -> None:
        del self._model


def open_runner(path: Path, *, threads: int | None, device: str) -> LiteRtRunner:
    require_cpu(device, "LiteRT runs")
    return LiteRtRunner(path, threads)
