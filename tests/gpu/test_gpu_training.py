"""Training where mixed precision and channels_last take effect."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from mvp_deploy import backbones
from mvp_deploy.base.devices import resolve
from mvp_deploy.tasks import load_task, prepare
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
