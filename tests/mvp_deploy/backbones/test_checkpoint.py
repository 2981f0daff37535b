"""A checkpoint with its trained head: it computes what it did where it was trained."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from mvp_deploy.backbones import build
from mvp_deploy.backbones.checkpoint import read_checkpoint
from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.base.errors import InputError

NAMES = ("asters", "roses", "tulips", "violets", "zinnias")


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm().create_model("test_resnet", num_classes=5).eval()


@pytest.fixture
def file(trained: torch.nn.Module, tmp_path: Path) -> Path:
    """As timm's train.py writes it."""
    arguments = argparse.Namespace(model="test_resnet", img_size=64, mean=[0.5] * 3, std=[0.25] * 3, crop_pct=1.0)
    content = {"epoch": 3, "arch": "test_resnet", "state_dict": trained.state_dict(), "args": arguments}
    torch.save(content, tmp_path / "last.pth.tar")
    return tmp_path / "last.pth.tar"


def test_a_training_script_s_checkpoint_says_all_that_is_needed(trained: torch.nn.Module, file: Path) -> None:
    found = read_checkpoint(file)
    assert (found.backbone.name, found.outputs, found.names) == ("test_resnet", 5, None)
    how = found.backbone.preprocessing
    assert (how.input_size, how.mean, how.std, how.crop_pct) == ((3, 64, 64), (0.5,) * 3, (0.25,) * 3, 1.0)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(build(found.backbone, found.state, 5)(x), trained(x))


def test_outputs_follow_the_data_s_order_of_classes(trained: torch.nn.Module, file: Path) -> None:
    from dataclasses import replace

    ordered = replace(read_checkpoint(file), names=NAMES[::-1]).ordered(NAMES)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(build(ordered.backbone, ordered.state, 5)(x), trained(x).flip(1), atol=1e-5)
    with pytest.raises(InputError, match=r"5 classes apart and the data have 4: the checkpoint alone has zinnias\. "):
        ordered.ordered(NAMES[:4])


def test_bare_weights_need_the_architecture_s_name(trained: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "bare.pt")
    with pytest.raises(InputError, match="name it with --model"):
        read_checkpoint(tmp_path / "bare.pt")
    assert read_checkpoint(tmp_path / "bare.pt", "test_resnet", image_size=32).outputs == 5
    with pytest.raises(InputError, match="did you mean test_resnet"):
        read_checkpoint(tmp_path / "bare.pt", "test_resnett")
    with pytest.raises(InputError, match=r"do not fit the model|no classifier that fits"):
        read_checkpoint(tmp_path / "bare.pt", "test_vit")


def test_a_backbone_alone_has_no_classifier_to_keep(trained: torch.nn.Module, tmp_path: Path) -> None:
    torch.save({k: v for k, v in trained.state_dict().items() if not k.startswith("fc.")}, tmp_path / "body.pt")
    with pytest.raises(InputError, match=r"no classifier.*--weights"):
        read_checkpoint(tmp_path / "body.pt", "test_resnet")
