"""MNN on the CPU; needs MNN and numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mvp_deploy.base.environment import cores
from mvp_deploy.base.errors import InputError
from mvp_deploy.benchmark.runner import require_cpu
from mvp_deploy.exporters.mnn import sealed
from mvp_deploy.exporters.silence import muted

with muted():  # it prints what the CPU supports
    import MNN


class MnnRunner:
    """A model for any batch size, computed in float32: ARM CPUs could compute it in fp16."""

    def __init__(self, path: Path, threads: int | None) -> None:
        number = threads or cores()
        how = {"precision_mode": MNN.expr.PrecisionMode.High, "thread_num": number}
        try:
            if sealed(content := path.read_bytes()) != content:
                raise ValueError("its checksum is another")
            with muted():
                self._model = MNN.nn.load_module_from_file(str(path), ["input"], ["logits"], **how)
                _, channels, height, width = MNN.expr.load_as_dict(str(path))["input"].shape
        except (ValueError, SystemError, KeyError) as error:  # the last two: another input or output
            reason = "it is damaged, or mvp-deploy did not make it"
            raise InputError(f"MNN cannot load {path.name}: {reason}. Export it again.") from error
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        self._images: Any = None
        self._logits = np.empty(0)
        self.name = "mnn CPU"
        self.details: Mapping[str, str] = {
            "runtime": f"MNN {version('MNN')}",
            "device": "CPU",
            "threads": str(number),
        }

    def prepare(self, batch: np.ndarray) -> None:
        express = MNN.expr
        self._images = express.const(np.ascontiguousarray(batch), list(batch.shape), express.NCHW)

    def run(self) -> None:
        self._logits = self._model.forward(self._images).read()

    def output(self) -> np.ndarray:
        return self._logits

    def close(self) -> None:
        del self._model


def open_runner(path: Path, *, threads: int | None, device: str) -> MnnRunner:
    require_cpu(device, "MNN runs")
    return MnnRunner(path, threads)
