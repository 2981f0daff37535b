"""ExecuTorch on the CPU through XNNPACK, by its Python runtime."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from weakref import WeakSet

import numpy as np
import torch
from executorch.extension.pybindings import _portable_lib as pool
from executorch.runtime import Runtime

from mvp_deploy.base.environment import cores
from mvp_deploy.base.errors import InputError
from mvp_deploy.benchmark.runner import require_cpu

_alive: WeakSet[ExecuTorchRunner] = WeakSet()


class ExecuTorchRunner:
    """A program for one image; a batch is run image by image."""

    def __init__(self, path: Path, threads: int | None) -> None:
        _set_threads(threads or cores())
        try:
            self._program = Runtime.get().load_program(path)
            self._method = self._program.load_method("forward")
        except Exception as error:  # it raises types of its own
            raise InputError(f"ExecuTorch cannot load {path.name}: {error}") from error
        if self._method is None:
            raise InputError(f"{path.name} has no method 'forward': export it with mvp-deploy.")
        sizes = self._method.metadata.input_tensor_meta(0).sizes()
        self.image_shape: tuple[int, int, int] = tuple(sizes[1:])
        _alive.add(self)
        self._images: tuple[torch.Tensor, ...] = ()
        self._logits: list[torch.Tensor] = []
        self.name = "executorch CPU"
        self.details: Mapping[str, str] = {
            "runtime": f"executorch {version('executorch')}",
            "device": "CPU",
            "threads": str(pool._threadpool_get_thread_count()),
            "batch": "one image at a time",
        }

    def prepare(self, batch: np.ndarray) -> None:
        self._images = torch.from_numpy(batch).split(1)

    def run(self) -> None:
        self._logits = [self._method.execute([image])[0] for image in self._images]

    def output(self) -> np.ndarray:
        logits: np.ndarray = torch.cat(self._logits).numpy()
        return logits

    def close(self) -> None:
        del self._method, self._program
        _alive.discard(self)


def _set_threads(wanted: int) -> None:
    """One pool serves the whole process, and loaded programs hold on to it: it may change only between them."""
    if pool._threadpool_get_thread_count() == wanted:
        return
    if _alive:
        raise InputError(
            f"ExecuTorch runs other programs here with {pool._threadpool_get_thread_count()} threads, so {wanted} "
            "cannot be had: time them in another process."
        )
    pool._unsafe_reset_threadpool(wanted)


def open_runner(path: Path, *, threads: int | None, device: str) -> ExecuTorchRunner:
    require_cpu(device, "ExecuTorch runs")
    return ExecuTorchRunner(path, threads)
