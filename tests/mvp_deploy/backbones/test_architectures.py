"""Weights of another architecture: the message names the one they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvp_deploy import backbones
from mvp_deploy.backbones.architectures import nearest
from mvp_deploy.backbones.checkpoint import read_checkpoint
from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.base.errors import InputError


def state(name: str, **options: object) -> dict[str, Tensor]:
    torch.manual_seed(0)
    made: dict[str, Tensor] = timm().create_model(name, **options).state_dict()
    return made


def shapes(name: str, **options: object) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state(name, **options).items()}


@pytest.mark.parametrize("name", ["resnet34", "mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224"])
def test_an_architecture_is_known_by_its_entries(name: str) -> None:
    assert name in nearest(shapes(name, num_classes=3))


def test_the_image_size_and_the_head_do_not_matter() -> None:
    assert "test_vit" in nearest(shapes("test_vit", num_classes=0, img_size=96))


def test_other_sizes_of_a_known_architecture_are_that() -> None:
    wider = {key: [2 * n for n in shape] for key, shape in shapes("resnet18").items()}
    assert nearest(wider).endswith("resnet18, in other sizes")


def test_nothing_of_timm_s_is_no_hint() -> None:
    assert nearest({"encoder.weight": (3, 3)}) == ""
    assert nearest(shapes("resnet18"), asked="resnet18") == ""


def test_messages_name_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    torch.save({f"module.{key}": value for key, value in state("test_resnet", num_classes=5).items()}, file)
    with pytest.raises(InputError, match=r"name it with --model.*look like timm's test_resnet"):
        read_checkpoint(file)
    with pytest.raises(InputError, match="look like timm's test_resnet"):
        read_checkpoint(file, "resnet18")
    with pytest.raises(InputError, match="look like timm's test_resnet"):
        backbones.create("test_efficientnet", weights=file)
