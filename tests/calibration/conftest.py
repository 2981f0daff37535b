"""A small convolutional network with everything int8 has rules for, trained on the embedded digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

from mvp_deploy.calibration.convert import Measured, measure
from mvp_deploy.calibration.guard import Limit
from mvp_deploy.calibration.images import CalibrationImages, choose
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.exporters.session import open_session
from mvp_deploy.tasks import load_task


class Network(nn.Module):
    """A narrow stem, a residual block, a shortcut block, a depthwise convolution, squeeze-and-excite, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self.conv(3, 32)
        self.one, self.two = self.conv(32, 32), self.conv(32, 32)
        self.three, self.shortcut = self.conv(32, 48, 2), self.conv(32, 48, 2)
        self.depthwise = self.conv(48, 48, groups=48)
        self.squeeze = nn.Conv2d(48, 48, 1)
        self.head = nn.Linear(48, 10)

    @staticmethod
    def conv(ins: int, outs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
        layer = nn.Conv2d(ins, outs, 3, stride, 1, groups=groups, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.two(self.one(x).relu())).relu()
        x = (self.three(x) + self.shortcut(x)).relu()
        x = self.depthwise(x).relu()
        x = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(x.mean((2, 3)))


@dataclass(frozen=True, eq=False)
class Trained:
    """The network as ONNX, measured on its calibration images, and the held-out images."""

    path: Path
    measured: Measured
    images: np.ndarray
    labels: np.ndarray

    def accuracy_of(self, model: ModelProto) -> float:
        session = open_session(model.SerializeToString())
        (logits,) = session.run(None, {"input": self.images})
        return float((logits.argmax(1) == self.labels).mean())

    def limit(self, max_drop: float = 0.01) -> Limit:
        return Limit(self.accuracy_of, len(self.labels), max_drop)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.manual_seed(0)
    task = load_task("digits")
    train, test = ((_prepared(part.images), part.labels) for part in (task.train, task.test))
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(60):
        index = torch.randint(len(train[0]), (64,))
        loss = nn.functional.cross_entropy(model(torch.from_numpy(train[0])[index]), torch.from_numpy(train[1])[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("trained") / "model.onnx"
    export_onnx(model, torch.zeros(1, 3, 16, 16), path, {"classes": list(task.classes)})
    chosen = choose(train[1])
    return Trained(path, measure(path, CalibrationImages(train[0][chosen], train[1][chosen])), *test)


def _prepared(images: np.ndarray) -> np.ndarray:
    """uint8 [n, 8, 8, 3] to float32 [n, 3, 16, 16]."""
    doubled = np.asarray(images).repeat(2, 1).repeat(2, 2)
    return np.ascontiguousarray(doubled.transpose(0, 3, 1, 2), dtype=np.float32) / 128 - 1
