"""An unfinished training on disk: safetensors and JSON in one file, whole or not there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mvp_deploy.errors import DeployError
from mvp_deploy.files import atomic_write

if TYPE_CHECKING:
    from mvp_deploy.training import TrainConfig


class Checkpoint:
    """Saves and restores a model, its optimizer, the gradient scaler and torch's random state."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        config: TrainConfig,
        labels: Tensor,
    ) -> None:
        self.path = Path(path)
        self._model, self._optimizer, self._scaler = model, optimizer, scaler
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        training = [asdict(config), shapes, hashlib.sha256(labels.cpu().numpy()).hexdigest()]
        self._training = hashlib.sha256(json.dumps(training).encode()).hexdigest()

    def exists(self) -> bool:
        return self.path.exists()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def save(self, step: int, seconds: float, loss: float) -> None:
        """Write everything, after ``step`` steps that took ``seconds``."""
        tensors = {f"model.{name}": value for name, value in self._model.state_dict().items()}
        for index, entry in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": v for name, v in entry.items() if isinstance(v, Tensor)}
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        header = {
            "training": self._training,
            "step": step,
            "seconds": seconds,
            "loss": loss,
            "scaler": self._scaler.state_dict(),
        }
        with atomic_write(self.path) as temporary:
            save_file(
                {name: value.contiguous() for name, value in tensors.items()},
                temporary,
                metadata={"checkpoint": json.dumps(header)},
            )

    def load(self) -> tuple[int, float, float]:
        """Put everything back; returns the steps done, the seconds they took, and the last loss.

        Raises:
            DeployError: the file is damaged, or belongs to another model, other data or another configuration.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("checkpoint", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise DeployError(f"the checkpoint {self.path} cannot be read ({error}): delete it") from error
        if header.get("training") != self._training:
            raise DeployError(
                f"the checkpoint {self.path} belongs to another training: delete it, or go back to the options it "
                "began with"
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self._model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
        self._scaler.load_state_dict(header["scaler"])
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(parts["random"]["cuda"])
        return header["step"], header["seconds"], header["loss"]
