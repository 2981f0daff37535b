"""PyTorch in eager mode, for a RUN folder's models or a pruned model's own file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from mvp_deploy.base.devices import full_float32, resolve
from mvp_deploy.pruning import pruned


class TorchRunner:
    """A model in eval mode, float32. Transfers to and from a GPU are part of a run."""

    def __init__(self, loaded: pruned.PrunedModel, device: torch.device, threads: int | None) -> None:
        self._model = loaded.model.to(device).eval()
        self.image_shape = loaded.backbone.preprocessing.input_size
        self._device = device
        self._threads = threads or torch.get_num_threads()
        self._batch = self._logits = torch.empty(0)
        self.name = f"pytorch {device.type.upper()}"
        self.details: Mapping[str, str] = {
            "runtime": f"torch {torch.__version__}",
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "threads": str(self._threads),
        }

    def prepare(self, batch: np.ndarray) -> None:
        self._batch = torch.from_numpy(batch)
        if self._device.type == "cuda":
            self._batch = self._batch.pin_memory()

    @torch.inference_mode()
    def run(self) -> None:
        if torch.get_num_threads() != self._threads:  # one setting for the whole process, and others may time too
            torch.set_num_threads(self._threads)
        with full_float32() if self._device.type == "cuda" else nullcontext():
            self._logits = self._model(self._batch.to(self._device, non_blocking=True)).cpu()

    def output(self) -> np.ndarray:
        logits: np.ndarray = self._logits.numpy()
        return logits

    def close(self) -> None:
        del self._model


def open_runner(path: Path, *, threads: int | None, device: str) -> TorchRunner:
    file = path / "pruned.safetensors" if path.is_dir() else path
    return TorchRunner(pruned.load(file), resolve(device), threads)
