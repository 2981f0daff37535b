"""An unfinished training on disk: one file of tensors and JSON, whole or not there."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Amount, Count
from mvp_deploy.training.config import TrainConfig


@dataclass(frozen=True)
class Best:
    """The best state that a judge was shown: what it said of it, after which step, and how often since it saw none."""

    value: float = math.inf
    step: int = 0
    state: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    disappointed: int = 0


@dataclass(frozen=True)
class Header:
    """The JSON header of a checkpoint.

    training: a checksum of all that the training depends on. best: `Best`'s value (None: infinite), step and
    disappointments.
    """

    training: str
    step: Count
    seconds: Amount
    loss: float | None  # None: not read yet
    scaler: dict[str, int | float]
    best: tuple[float | None, Count, Count]


class Checkpoint:
    """Saves and restores a model, its optimizer, the gradient scaler and torch's random state on their device."""

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
        self._device = labels.device
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        training = json.dumps([asdict(config), shapes, labels.tolist()])
        self._training = hashlib.sha256(training.encode()).hexdigest()

    def save(self, step: int, seconds: float, loss: float, best: Best) -> None:
        """Write everything, after ``step`` steps that took ``seconds``."""
        state = self._optimizer.state_dict()["state"]
        sections = {
            "model": self._model.state_dict(),
            "optimizer": {
                f"{index}.{name}": value
                for index, entry in state.items()
                for name, value in entry.items()
                if isinstance(value, Tensor)
            },
            "random": {"cpu": torch.get_rng_state()} | self._random_of_gpu(),
            "best": dict(best.state),
        }
        known = None if math.isnan(loss) else loss
        done = {"training": self._training, "step": step, "seconds": seconds, "loss": known}
        done["best"] = [best.value if math.isfinite(best.value) else None, best.step, best.disappointed]
        tensorfile.save(self.path, done | {"scaler": self._scaler.state_dict()}, sections)

    def load(self) -> tuple[int, float, float, Best]:
        """Put everything back; returns the steps done, the seconds they took, the last loss, and the best state.

        Raises:
            MvpError: the file is damaged, or belongs to another model, task or configuration.
        """
        header, sections = tensorfile.load(self.path)
        done = tensorfile.typed(Header, header, self.path)
        if done.training != self._training:
            raise InputError(
                f"the checkpoint {self.path} belongs to another training: delete it, or go back to the "
                "options it began with"
            )
        self._model.load_state_dict(sections["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in sections["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
        self._scaler.load_state_dict(done.scaler)
        torch.set_rng_state(sections["random"]["cpu"])
        if "cuda" in sections["random"] and self._device.type == "cuda":
            torch.cuda.set_rng_state(sections["random"]["cuda"], self._device)
        least, at, disappointed = done.best
        best = Best(math.inf if least is None else least, at, sections["best"], disappointed)
        return done.step, done.seconds, math.nan if done.loss is None else done.loss, best

    def _random_of_gpu(self) -> dict[str, Tensor]:
        """The random state of the GPU that is used, if one is: others belong to other work."""
        return {"cuda": torch.cuda.get_rng_state(self._device)} if self._device.type == "cuda" else {}
