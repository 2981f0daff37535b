"""Training where mixed precision and channels_last take effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from mvp_deploy import backbones
from mvp_deploy.base.devices import resolve
from mvp_deploy.tasks import Preprocessing, load_task, prepare
from mvp_deploy.training import TrainConfig, accuracy, fit

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("amp", ["auto", "fp16", "off"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_model_learns_in_every_precision_after_a_kill(
    name: str, amp: Literal["auto", "fp16", "off"], tmp_path: Path
) -> None:
    task, device = load_task("digits#0,1,4"), resolve("cuda")
    backbone, state = backbones.create(name, image_size=32)
    train, test = (prepare(split, backbone.preprocessing, device) for split in (task.train, task.test))
    optimizer: Literal["sgd", "adamw"] = "adamw" if name == "test_vit" else "sgd"
    config = TrainConfig(
        steps=120, batch_size=32, lr=0.002 if optimizer == "adamw" else 0.05, optimizer=optimizer, amp=amp
    )
    model = backbones.build(backbone, state, 3)

    class Killed(BaseException):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 40:
            raise Killed

    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        fit(model, train, config, checkpoint=checkpoint, checkpoint_seconds=0, progress=kill)
    assert checkpoint.exists()
    model = backbones.build(backbone, state, 3)
    fit(model, train, config, checkpoint=checkpoint)
    assert next(model.parameters()).device.type == test.labels.device.type == "cuda"
    assert accuracy(model, test) > 0.85


class Killed(BaseException):
    pass


def test_a_killed_training_draws_the_same_dropout_on_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    how = Preprocessing((3, 8, 8), "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images = prepare(load_task("digits#0,1,4").train, how, resolve("cuda"))
    config = TrainConfig(steps=40, batch_size=32, lr=0.01, amp="off")
    checkpoint = tmp_path / "checkpoint.safetensors"

    def network() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 20:
            raise Killed

    def weights(model: nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    unbroken, resumed, other = network(), network(), network()
    fit(unbroken, images, config)
    with pytest.raises(Killed):
        fit(resumed, images, config, checkpoint=checkpoint, checkpoint_seconds=0, progress=kill)
    torch.rand(7, device=images.device)  # other work in between
    fit(resumed, images, config, checkpoint=checkpoint)
    fit(other, images, replace(config, seed=1))
    apart = (weights(resumed) - weights(unbroken)).norm()
    assert apart < 0.01 * (weights(other) - weights(unbroken)).norm()
