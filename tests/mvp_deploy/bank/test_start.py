"""Starting a bank: its backbone's linear streams are turned where there are images."""

from pathlib import Path

import pytest
import torch

import mvp_deploy as mvp
from mvp_deploy.backbones import build
from mvp_deploy.base.errors import InputError


def test_streams_turned_at_the_start_are_the_backbone_s_and_change_no_output(tmp_path: Path) -> None:
    plain = mvp.Bank.create(tmp_path / "plain", "test_efficientnet", image_size=32).store
    turned = mvp.Bank.create(tmp_path / "turned", "test_efficientnet", image_size=32, rotate="digits#3,4").store
    assert turned.backbone.weights == f"{plain.backbone.weights}, streams rotated"
    assert not turned.verify()
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (build(bank.backbone, bank.state(), 0).eval()(x) for bank in (plain, turned))
    assert (before - after).abs().max() < 1e-4 * before.abs().max()


def test_what_is_no_task_turns_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tasks are on disk"):
        mvp.Bank.create(tmp_path / "bank", "test_efficientnet", image_size=32, rotate=torch.rand(2, 3, 32, 32))
    assert not (tmp_path / "bank").exists()
