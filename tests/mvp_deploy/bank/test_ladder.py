"""A bank's ladder: made once, resumable, and taken by later tasks of its budgets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from mvp_deploy import runs
from mvp_deploy.bank import ladder
from mvp_deploy.bank.pool import pool
from mvp_deploy.bank.rung import Rung, rung_for, start
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.files import locked
from mvp_deploy.base.reporter import Silent
from mvp_deploy.cli import main
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.imitation import TUNING
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import RECIPES
from mvp_deploy.tasks import Images, load_task
from mvp_deploy.training import TrainConfig, accuracy

TASKS = ["digits#3,4,5", "digits#5,6,7"]
BUDGET = Budget(0.5, "macs")
SHORT = replace(TUNING, steps=12, batch_size=16, lr=1e-4, augment=False)
CPU = torch.device("cpu")


class Said(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)


@pytest.fixture(scope="module")
def bank(cnn, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank.init(tmp_path_factory.mktemp("bank"), cnn.backbone, cnn.state)


@pytest.fixture(scope="module")
def images(bank: Bank) -> Images:
    return pool([load_task(name) for name in TASKS], bank.backbone.preprocessing, CPU, most=200)


@pytest.fixture(scope="module")
def built(bank: Bank, images: Images) -> Rung:
    return ladder.build(bank, images, [BUDGET], SHORT, reporter=Silent())[0]


def test_a_class_that_two_tasks_have_is_one_class_and_its_images_count_once(images: Images) -> None:
    assert set(images.labels.tolist()) == set(range(5))  # 3, 4, 5, 6, 7
    assert len({image.numpy().tobytes() for image in images.pixels}) == len(images) <= 200


def test_each_step_brings_the_features_nearer(built: Rung, bank: Bank, cnn) -> None:
    errors = built.errors
    assert errors["cut"] > errors["re-solved"] >= errors["imitated"] > 0
    assert built.macs <= 0.5 * cnn.original.cost().macs
    assert rung_for(bank, BUDGET) == built
    assert not [path for path in (bank.folder / ".work").rglob("*") if path.is_file()]


def test_imitation_that_does_not_help_is_taken_back(bank: Bank, images: Images) -> None:
    rung = ladder.build(bank, images, [Budget(0.7, "macs")], replace(SHORT, lr=0.01), reporter=Silent())[0]
    assert rung.errors["imitated"] == rung.errors["re-solved"]


def test_what_is_there_of_the_same_inputs_is_not_made_again(built: Rung, bank: Bank, images: Images) -> None:
    before = built.path.stat().st_mtime_ns
    ladder.build(bank, images, [BUDGET], SHORT, reporter=Silent())
    assert built.path.stat().st_mtime_ns == before
    other = ladder.build(bank, images, [BUDGET], replace(SHORT, steps=2), reporter=Silent())[0]
    assert other.key != built.key
    ladder.build(bank, images, [BUDGET], SHORT, reporter=Silent())


def test_a_new_task_solves_only_its_head(built: Rung, bank: Bank, cnn) -> None:
    original = Original.create(bank.backbone, bank.state(), 3)
    model = start(original, built, cnn.train)
    body = built.weights()
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in body.items())
    assert accuracy(model, cnn.test) > 0.8


def test_prune_takes_the_rung_of_its_budget_and_no_other(built: Rung, bank: Bank, tmp_path: Path) -> None:
    said = Said()

    def prune(name: str, budget: Budget) -> runs.Run:
        return runs.prune_task(
            load_task("digits#0,1,2"), bank, tmp_path / name,
            runs.Pruning(budget, RECIPES["default"], TrainConfig(steps=2, batch_size=16, lr=1e-3)),
            device=CPU, reporter=said,
        )  # fmt: skip

    on_it = prune("on", BUDGET)
    assert on_it.info["votes"]["initial_weights"] == "ladder"
    assert on_it.pruned().plan == built.plan
    making = on_it.info["metrics"]["pruned"]["making"]
    assert making["ladder"]["errors"] == dict(built.errors)
    assert making["unpruned"]["loo_accuracy"] > 0.8
    assert any(f"off by {built.errors['cut']:.3f} when cut" in sentence for sentence in said.sentences)
    beside = prune("beside", Budget(0.6, "macs"))
    assert beside.info["votes"]["initial_weights"] != "ladder"


def test_a_damaged_rung_is_refused_by_name(built: Rung, bank: Bank) -> None:
    content = built.path.read_bytes()
    assert bank.verify() == []
    try:
        built.path.write_bytes(content[:-100] + bytes(100))
        with pytest.raises(MvpError, match=r"macs-0\.5"):
            rung_for(bank, BUDGET).weights()  # type: ignore[union-attr]
        [problem] = bank.verify()
        assert str(built.path) in problem
    finally:
        built.path.write_bytes(content)


def test_from_the_command_line(bank: Bank, images: Images) -> None:
    arguments = ["bank", "build", str(bank.folder), "--macs", "0.6", "--steps", "2", "--no-flip", "--json"]
    empty = CliRunner().invoke(main, arguments)
    assert empty.exit_code == 2
    assert "no images to build a ladder from" in empty.output
    done = CliRunner().invoke(main, [*arguments, "--images", TASKS[0]])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["budget"]["fraction"] == 0.6
    listed = CliRunner().invoke(main, ["bank", "list", str(bank.folder), "--json"])
    assert 0.6 in [rung["budget"]["fraction"] for rung in json.loads(listed.stdout)["ladder"]]
    assert "Its ladder:" in CliRunner().invoke(main, ["bank", "list", str(bank.folder)]).stdout
    wrong = CliRunner().invoke(main, ["bank", "build", str(bank.folder), "--macs", "0.6,nan"])
    assert wrong.exit_code == 2


def test_of_two_that_build_at_once_the_second_is_reported(bank: Bank, images: Images) -> None:
    other = Budget(0.65, "macs")
    with locked(bank.folder / ".work/ladder.lock", ""), ThreadPoolExecutor(1) as thread:
        work = thread.submit(ladder.build, bank, images, [other], SHORT, reporter=Silent())
        with pytest.raises(MvpError, match="another process"):
            work.result()
    assert rung_for(bank, other) is None
