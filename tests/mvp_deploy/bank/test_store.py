from __future__ import annotations

import functools
import multiprocessing
import operator
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.run import DETAILS
from fresh import SERVER

from mvp_deploy.backbones import Backbone
from mvp_deploy.bank.signature import Signature
from mvp_deploy.bank.store import Bank, Record
from mvp_deploy.base.errors import MvpError
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Preprocessing

PREPROCESSING = Preprocessing((3, 32, 32), "bicubic", 0.95, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BACKBONE = Backbone("test_resnet", 32, "random", "0" * 64, PREPROCESSING, None)


def record(name: str, weight: float = 1.0) -> Record:
    return Record(
        name=name,
        classes=("a", "b"),
        data=f"data of {name}",
        plan=KeepPlan({"g": np.array([True, False, True])}),
        weights={"conv.weight": torch.full((50, 50), weight), "steps": torch.tensor(3)},
        scores={"g": np.array([0.5, 0.0, 2.0])},
        signature=Signature(np.ones((2, 4), np.float32), np.array([3, 4])),
        metrics={"accuracy": 0.9, "unpruned_accuracy": 0.95, "units": 0.3, "params": 1, "macs": 2,
                 "unpruned_params": 10, "unpruned_macs": 20},
        cost={"steps": 10, "seconds": 1.5, "macs": 99},
        details=DETAILS,
    )  # fmt: skip


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank.init(tmp_path / "bank", BACKBONE, {"w": torch.ones(4)})


def test_a_task_comes_back_as_it_was_stored(bank: Bank) -> None:
    bank.add(record("data/x.npz#cat,dog"))
    again = Bank.open(bank.folder)
    assert again.backbone == BACKBONE
    assert torch.equal(again.state()["w"], torch.ones(4))
    entry = again.entry("data/x.npz#cat,dog")
    original = record("data/x.npz#cat,dog")
    assert entry.plan == original.plan
    assert entry.classes == ("a", "b")
    assert entry.metrics == original.metrics
    assert torch.equal(entry.weights()["conv.weight"], original.weights["conv.weight"])
    assert entry.scores()["g"].tolist() == [0.5, 0.0, 2.0]
    assert entry.signature().count.tolist() == [3, 4]
    assert again.verify() == []


def test_names_that_look_the_same_are_different_tasks(bank: Bank) -> None:
    names = ["a/b", "a-b", "a b", "A-B", "", "x" * 300, "../../etc/passwd", "für#Äpfel,Öl"]
    for name in names:
        bank.add(record(name))
    assert sorted(entry.name for entry in bank.entries()) == sorted(names)
    assert {path.parent for path in bank.folder.rglob("*.safetensors")} == {bank.folder, bank.folder / "tasks"}


def test_a_task_is_replaced_only_when_asked(bank: Bank) -> None:
    bank.add(record("t"))
    with pytest.raises(MvpError, match="--replace"):
        bank.add(record("t", 2.0))
    assert bank.entry("t").weights()["conv.weight"][0, 0] == 1
    bank.add(record("t", 2.0), replace=True)
    assert bank.entry("t").weights()["conv.weight"][0, 0] == 2


def test_what_is_not_a_bank_is_said_so(tmp_path: Path, bank: Bank) -> None:
    with pytest.raises(MvpError, match="bank init"):
        Bank.open(tmp_path / "nowhere")
    with pytest.raises(MvpError, match="is a bank already"):
        Bank.init(bank.folder, BACKBONE, {})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(MvpError, match="not empty"):
        Bank.init(tmp_path / "photos", BACKBONE, {})
    with pytest.raises(MvpError, match="no task 'x'"):
        bank.entry("x")


def test_a_bank_half_started_is_started_again(bank: Bank) -> None:
    (bank.folder / "bank.json").unlink()  # as if killed before it was written
    assert Bank.init(bank.folder, BACKBONE, {"w": torch.zeros(4)}).state()["w"].sum() == 0


def test_somebodys_weights_are_not_taken_for_a_half_started_bank(bank: Bank, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "mine").mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "mine/backbone.safetensors")
    before = (tmp_path / "mine/backbone.safetensors").read_bytes()
    with pytest.raises(MvpError, match="not empty"):
        Bank.init(tmp_path / "mine", BACKBONE, {"w": torch.zeros(4)})
    (bank.folder / "bank.json").unlink()
    with pytest.raises(MvpError, match="not empty"):  # half started for another backbone
        Bank.init(bank.folder, replace(BACKBONE, weights_sha256="1" * 64), {"w": torch.zeros(4)})
    assert (tmp_path / "mine/backbone.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["backbone.safetensors"]


def test_another_backbone_is_refused(bank: Bank, tmp_path: Path) -> None:
    other = replace(BACKBONE, weights_sha256="1" * 64)
    stranger = Bank.init(tmp_path / "other", other, {"w": torch.zeros(4)})
    path = stranger.add(record("t")).path
    os.rename(path, bank.path("t"))
    assert any("does not belong" in problem for problem in bank.verify())
    (stranger.folder / "backbone.safetensors").replace(bank.folder / "backbone.safetensors")
    with pytest.raises(MvpError, match="does not belong"):
        bank.state()


def test_verify_finds_every_damage_and_names_the_file(bank: Bank) -> None:
    for name in "abcd":
        bank.add(record(name))
    cut, flipped, renamed = bank.path("a"), bank.path("b"), bank.path("c")
    cut.write_bytes(cut.read_bytes()[:-10])
    content = bytearray(flipped.read_bytes())
    content[-100] ^= 1
    flipped.write_bytes(content)
    renamed.rename(renamed.with_name("c.safetensors"))
    problems = bank.verify()
    assert len(problems) == 3
    for path in (cut, flipped, renamed.with_name("c.safetensors")):
        assert any(str(path) in problem for problem in problems)
    with pytest.raises(MvpError, match="damaged"):
        bank.entry("b").weights()


def test_a_damaged_header_hides_no_other_task(bank: Bank) -> None:
    for name in "ab":
        bank.add(record(name))
    bank.path("a").write_bytes(b"nonsense")
    damaged: list[str] = []
    assert [entry.name for entry in bank.entries(damaged)] == ["b"]
    assert len(damaged) == 1
    assert str(bank.path("a")) in damaged[0]


def test_listing_reads_no_weights(bank: Bank) -> None:
    for index in range(1000):
        path = bank.path(f"t{index}")
        if index == 0:
            bank.add(record("t0"))
            content = bytearray(path.read_bytes())
            first = path
        else:
            os.link(first, path)
    size = int.from_bytes(content[:8], "little")
    os.truncate(first, 8 + size)  # weights gone, header whole
    assert sum(1 for _ in bank.entries()) == 1000


def _add(folder: Path, names: list[str]) -> None:
    for name in names:
        Bank.open(folder).add(record(name))


def _add_same(folder: Path, results: multiprocessing.Queue) -> None:
    try:
        Bank.open(folder).add(record("same"))
        results.put("added")
    except MvpError as error:
        results.put(str(error))


def test_many_processes_adding_at_once_lose_nothing(bank: Bank) -> None:
    names = [[f"task {worker} {index}" for index in range(10)] for worker in range(4)]
    workers = [SERVER.Process(target=_add, args=(bank.folder, own)) for own in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sorted(entry.name for entry in bank.entries()) == sorted(functools.reduce(operator.iadd, names, []))
    assert bank.verify() == []


def test_of_many_processes_adding_the_same_task_one_does(bank: Bank) -> None:
    results = SERVER.Queue()
    workers = [SERVER.Process(target=_add_same, args=(bank.folder, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    said = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert said.count("added") == 1
    assert all("already" in text or "another process" in text for text in said if text != "added")
    assert bank.verify() == []
    assert [entry.name for entry in bank.entries()] == ["same"]


def test_a_claim_keeps_others_out_and_ends_with_its_block(bank: Bank) -> None:
    results = SERVER.Queue()
    with bank.claim("same"):
        worker = SERVER.Process(target=_add_same, args=(bank.folder, results))
        worker.start()
        assert "another process" in results.get(timeout=120)
        worker.join()
        leftover = bank.path("same").with_name(f".{bank.path('same').stem}.{16 * 'a'}.tmp.safetensors")
        leftover.touch()
    bank.add(record("same"))
    assert not leftover.exists()
