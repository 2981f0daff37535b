"""A bank is asked for a time from Python, with the meaning and the errors of the commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fakes.profiles import blocks_of, profile_by

import mvp_deploy as mvp
from mvp_deploy.base.environment import cpu_name
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.files import read
from mvp_deploy.pruning.original import Original

SOON = {"steps": 1, "rounds": 2, "round_steps": 1}


@pytest.fixture
def bank(bank_folder: Path, tmp_path: Path) -> mvp.Bank:
    shutil.copytree(bank_folder, tmp_path / "bank")
    return mvp.Bank.open(tmp_path / "bank")


@pytest.fixture
def board(bank: mvp.Bank, tmp_path: Path) -> Path:
    """The profile of another machine, so that nothing is timed here."""
    original = Original.create(bank.store.backbone, bank.store.state(), 2)
    file = tmp_path / "board.json"
    file.write_text(json.dumps(asdict(profile_by(original.model, original.structure, blocks_of(8)))), encoding="utf-8")
    return file


def test_a_task_is_added_within_a_time(bank: mvp.Bank, board: Path) -> None:
    entry = bank.add("digits#5,6", speed_up=2, on=board, **SOON)
    original = Original.create(bank.store.backbone, bank.store.state(), 2)
    cost = Milliseconds(original.structure, read(board))
    assert 0.4 < cost.total({name: int(mask.sum()) for name, mask in entry.plan.masks.items()}) / cost.total({}) <= 0.5
    assert bank.add("digits#5,6", speed_up=2, on=board, **SOON).plan == entry.plan  # stored: not made again


def test_a_task_is_pruned_within_a_time_by_a_bank(bank: mvp.Bank, board: Path) -> None:
    full = read(board).full_ms
    result = mvp.prune("test_resnet", "digits#0,1", bank=bank, latency=0.6 * full, on=board, steps=1)
    assert result.report.latency is not None
    assert result.report.latency.predicted_ms <= 0.6 * full
    assert "not timed here" in str(result.report)


def test_what_is_known_of_a_profile_is_a_warning(bank: mvp.Bank, board: Path) -> None:
    board.write_text(json.dumps(asdict(replace(read(board), stable=False))), encoding="utf-8")
    with (
        pytest.warns(UserWarning, match="the machine was not quiet"),
        pytest.raises(mvp.MvpError, match="cannot be met by cutting: the smallest this backbone gets takes"),
    ):
        bank.add("digits#5,6", latency=1e-3, on=board, **SOON)


@pytest.mark.parametrize("ask", [mvp.Bank.add, mvp.Bank.prune])
def test_a_time_that_cannot_be_meant_is_a_sentence(ask: Callable[..., object], bank: mvp.Bank, board: Path) -> None:
    profile = read(board)
    here = replace(profile, machine=replace(profile.machine, cpu=cpu_name()))  # of onnxruntime 1.0
    for arguments, sentence in (
        ({"speed_up": 2}, "mvp-deploy profile"),
        ({"speed_up": 2, "macs": 0.5, "on": board}, "one of macs="),
        ({"macs": 0.5, "on": board}, "needs a time"),
        ({"speed_up": 0.5, "on": board}, "must be 1 or more"),
        ({"latency": 1e-3, "on": board}, "cannot be met by cutting: the smallest this backbone gets takes"),
        ({"speed_up": 2, "on": replace(profile, input_size=(3, 64, 64))}, "images of 64x64"),
        ({"speed_up": 2, "on": here}, "onnxruntime 1.0"),
        ({"speed_up": 2, "on": board, "round_to": 0}, "round_to is 0"),
    ):
        with pytest.raises(mvp.MvpError, match=sentence):
            ask(bank, "digits#5,6", steps=1, **arguments)
