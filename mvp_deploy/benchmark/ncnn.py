"""ncnn on the CPU; needs ncnn and numpy alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import ncnn
import numpy as np

from mvp_deploy.base.environment import cores
from mvp_deploy.base.errors import InputError
from mvp_deploy.benchmark.runner import require_cpu

INPUT = re.compile(r"^Input +in0 +0 1 in0 +0=(\d+) +1=(\d+) +2=(\d+)", re.MULTILINE)
LARGEST = 10_000_000  # characters of a parameter file


class NcnnRunner:
    """A model for one image; a batch is run image by image. Computed in float32, on ARM CPUs with fp16 or bf16, too."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self.image_shape = _image_shape(path)
        self._net = ncnn.Net()
        option = self._net.opt
        option.num_threads = threads or cores()
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(option, f"use_{name}", False)
        weights = path.with_suffix(".bin")
        if not weights.is_file() or self._net.load_param(str(path)) or self._net.load_model(str(weights)):
            raise InputError(f"ncnn cannot load {path.name} with {weights.name}: export them again.")
        self._images: list[ncnn.Mat] = []
        self._logits: list[np.ndarray] = []
        self.name = "ncnn CPU"
        self.details: Mapping[str, str] = {
            "runtime": f"ncnn {version('ncnn')}",
            "device": "CPU",
            "threads": str(option.num_threads),
            "batch": "one image at a time",
        }

    def prepare(self, batch: np.ndarray) -> None:
        self._images = [ncnn.Mat(image).clone() for image in np.ascontiguousarray(batch)]

    def run(self) -> None:
        self._logits = []
        for image in self._images:
            with self._net.create_extractor() as extractor:
                extractor.input("in0", image)
                code, logits = extractor.extract("out0")
                if code:
                    raise InputError(f"ncnn cannot run the model: code {code}.")
                self._logits.append(np.array(logits))

    def output(self) -> np.ndarray:
        return np.stack(self._logits)

    def close(self) -> None:
        self._images = []
        self._net.clear()


def _image_shape(path: Path) -> tuple[int, int, int]:
    """Channels, height and width, which the exporter wrote into the input's line."""
    try:
        with path.open(encoding="utf-8") as file:
            found = INPUT.search(file.read(LARGEST))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"ncnn cannot load {path.name}: {error}") from error
    if found is None:
        raise InputError(f"ncnn cannot load {path.name}: it does not say its input's size. Export it with mvp-deploy.")
    width, height, channels = map(int, found.groups())
    return channels, height, width


def open_runner(path: Path, *, threads: int | None, device: str) -> NcnnRunner:
    require_cpu(device, "ncnn runs")
    return NcnnRunner(path, threads)
