"""The smallest real models and tasks, made once: timm's test networks at 32 pixels on the embedded digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone
from mvp_deploy.pruning.original import Original
from mvp_deploy.tasks import Images, Task, load_task, prepare
from mvp_deploy.training import TrainConfig, fit


@dataclass(frozen=True)
class Setting:
    """A task on a backbone pretrained on other digits, ready to prune; weights: the backbone's file."""

    task: Task
    backbone: Backbone
    state: dict[str, Tensor]
    weights: Path
    original: Original
    train: Images
    test: Images


def setting(name: str, config: TrainConfig, weights: Path) -> Setting:
    from safetensors.torch import save_file

    backbone, state = backbones.create(name, image_size=32)
    other = load_task("digits#6,7,8,9")
    model = backbones.build(backbone, state, len(other.classes))
    fit(model, prepare(other.train, backbone.preprocessing), config)
    save_file(model.state_dict(), weights)
    backbone, state = backbones.create(name, weights=weights, image_size=32)
    task = load_task("digits#0,1,2")
    original = Original.create(backbone, state, len(task.classes))
    train, test = (prepare(part, backbone.preprocessing) for part in (task.train, task.test))
    return Setting(task, backbone, state, weights, original, train, test)


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    config = TrainConfig(steps=40, batch_size=32)
    return setting("test_resnet", config, tmp_path_factory.mktemp("cnn") / "test_resnet.safetensors")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    config = TrainConfig(steps=60, batch_size=32, optimizer="adamw", lr=1e-3)
    return setting("test_vit", config, tmp_path_factory.mktemp("vit") / "test_vit.safetensors")


@pytest.fixture(scope="session", params=["cnn", "vit"])
def both(request: pytest.FixtureRequest) -> Setting:
    """A convolutional network, then a transformer."""
    return request.getfixturevalue(request.param)
