"""A bank's ladder: made once, resumable, and taken by later tasks of its budgets."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from mvp_deploy import runs
from mvp_deploy.bank import ladder
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.pool import divided, labelled, pool, tasks_of
from mvp_deploy.bank.rung import Rung, asked, rung_for, start
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.files import locked
from mvp_deploy.base.reporter import Silent
from mvp_deploy.cli import main
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.imitation import TUNING
from mvp_deploy.pruning.iterative import LongWay, Schedule
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import RECIPES
from mvp_deploy.tasks import Images, load_task
from mvp_deploy.tasks.folder import photographs
from mvp_deploy.training import FitResult, TrainConfig, accuracy

TASKS = ["digits#3,4,5", "digits#5,6,7"]
BUDGET = Budget(0.5, "macs")
SHORT = replace(TUNING, steps=12, batch_size=16, lr=1e-4, augment=False)
CPU = torch.device("cpu")


class Said(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        self.sentences.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def bank(cnn, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank.init(tmp_path_factory.mktemp("bank"), cnn.backbone, cnn.state)


@pytest.fixture(scope="module")
def images(bank: Bank) -> Images:
    tasks = [load_task(name) for name in TASKS]
    return pool(tasks, (), bank.backbone.preprocessing, CPU, reporter=Silent(), most=200)


@pytest.fixture(scope="module")
def built(bank: Bank, images: Images) -> Rung:
    return ladder.build(bank, images, [BUDGET], SHORT, reporter=Silent())[0]


def test_a_class_that_two_tasks_have_is_one_class_and_its_images_count_once(images: Images) -> None:
    assert set(images.labels.tolist()) == set(range(5))  # 3, 4, 5, 6, 7
    assert len({image.numpy().tobytes() for image in images.pixels}) == len(images) <= 200


def photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, and what lies about in such folders."""
    folder = tmp_path_factory.mktemp("flat")
    for number in range(30):
        photograph(folder / f"IMG_{number}.png", number)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("of the journey")
    (folder / ".DS_Store").write_bytes(b"")
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_photographs_without_labels_lie_in_any_folders(bank: Bank, flat: Path, tmp_path: Path, nested: bool) -> None:
    folder, said = flat, Said()
    if nested:  # as one of train/ and val/, classes and a lone image would not be taken for a task
        folder = tmp_path / "photos"
        for number, place in enumerate(("train/a", "val/b/c", "2021/June", ".", "2021")):
            photograph(folder / place / "one.png", number)
    tasks = [load_task(name) for name in TASKS]
    alone = pool(tasks, (), bank.backbone.preprocessing, CPU, reporter=said, most=200)
    both = pool(tasks, [folder], bank.backbone.preprocessing, CPU, reporter=said)
    count = 5 if nested else 30
    assert int((both.labels == -1).sum()) == count
    assert set(labelled(both).labels.tolist()) == set(range(5))
    assert len(labelled(both)) + count == len(both) > len(alone)
    assert f"images of 5 classes, and {count} without labels" in said.sentences[-1]
    expected = [] if nested else [f"{flat}: left out: .txt files (1), unreadable images (1)"]
    assert said.warnings == expected


def test_of_many_photographs_some_are_taken_by_their_names(flat: Path, tmp_path: Path) -> None:
    shutil.copytree(flat, tmp_path / "again")
    some = [tuple(path.name for path in photographs(place, 9)[0].images) for place in (flat, tmp_path / "again")]
    assert some[0] == some[1]
    assert 8 <= len(some[0]) <= 9  # one may be broken


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvpError, match="holds no readable image"):
        photographs(tmp_path, 9)
    with pytest.raises(MvpError, match="is not a folder"):
        photographs(tmp_path / "nowhere", 9)


def test_labels_say_what_units_are_worth_and_all_images_teach(bank: Bank, flat: Path, cnn) -> None:
    said, budget = Said(), Budget(0.55, "macs")
    pooled = pool([load_task(TASKS[0])], [flat], bank.backbone.preprocessing, CPU, reporter=said, most=200)
    rung = ladder.build(bank, pooled, [budget], replace(SHORT, steps=2), reporter=said)[0]
    learned, _ = divided(pooled, SHORT.seed)
    assert f"units scored on {len(labelled(learned))} images of 3 classes" in said.sentences
    assert len(labelled(learned)) < len(learned)
    assert rung.images == len(pooled)
    assert rung.errors["cut"] > rung.errors["re-solved"] >= rung.errors["imitated"] > 0
    alone = ladder.build(bank, labelled(pooled), [budget], replace(SHORT, steps=2), reporter=said)[0]
    assert alone.key != rung.key
    rung.path.unlink()


def test_a_bank_whose_images_are_gone_says_what_is_missing(cnn, flat: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=draw.integers(0, 256, (40, 8, 8), np.uint8), labels=np.arange(40) % 2)
    bank, how = (
        Bank.init(tmp_path / "b", cnn.backbone, cnn.state),
        LongWay(Budget(0.5), Schedule(1, 1), TrainConfig(steps=1, batch_size=16)),
    )
    add_task(bank, load_task(f"{tmp_path}/data.npz"), how, device=CPU, reporter=Silent())
    (tmp_path / "data.npz").unlink()
    with pytest.raises(MvpError, match=r"no task whose images are there any more.*Put them back where they were, or"):
        tasks_of(bank, (), Silent())


def test_each_step_brings_the_features_nearer(built: Rung, bank: Bank, cnn) -> None:
    errors = built.errors
    assert errors["cut"] > errors["re-solved"] >= errors["imitated"] > 0
    assert built.macs <= 0.5 * cnn.original.cost().macs
    assert rung_for(bank, BUDGET) == built
    assert not [path for path in (bank.folder / ".work").rglob("*") if path.is_file()]


def test_imitation_that_does_not_help_is_taken_back(bank: Bank, images: Images) -> None:
    rung = ladder.build(bank, images, [Budget(0.7, "macs")], replace(SHORT, lr=0.01), reporter=Silent())[0]
    assert rung.errors["imitated"] == rung.errors["re-solved"]


def test_a_rate_that_did_not_help_is_not_tried_again_after_a_kill(
    bank: Bank, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def in_vain(original, plan, model, images, config, **how) -> FitResult:
        rates.append(config.lr)
        if len(rates) == 2:
            raise KeyboardInterrupt
        return FitResult(config.steps, 1.0, 0.1, kept=0)

    monkeypatch.setattr(ladder, "imitate", in_vain)
    config, said = replace(SHORT, lr=0.01), Said()
    with pytest.raises(KeyboardInterrupt):
        ladder.build(bank, images, [Budget(0.65, "macs")], config, reporter=said)
    rung = ladder.build(bank, images, [Budget(0.65, "macs")], config, reporter=said)[0]
    assert rates == [0.01, 0.0025, 0.0025, 0.000625]
    assert "after 18 steps" in said.sentences[-1]  # the later ones are a quarter as long
    rung.path.unlink()


def test_what_is_there_of_the_same_inputs_is_not_made_again(built: Rung, bank: Bank, images: Images) -> None:
    before = built.path.stat().st_mtime_ns
    ladder.build(bank, images, [BUDGET], SHORT, reporter=Silent())
    assert built.path.stat().st_mtime_ns == before
    other = ladder.build(bank, images, [BUDGET], replace(SHORT, steps=2), reporter=Silent())[0]
    assert other.key != built.key
    ladder.build(bank, images, [BUDGET], SHORT, reporter=Silent())


def test_a_model_of_other_multiples_takes_no_other_s_place(built: Rung, bank: Bank, images: Images) -> None:
    budget = replace(BUDGET, round_to=16)
    other = ladder.build(bank, images, [budget], replace(SHORT, steps=0), reporter=Silent())[0]
    kept = rung_for(bank, BUDGET)
    assert kept is not None
    assert kept.key == built.key
    assert rung_for(bank, budget) == other
    assert asked(budget) == "--macs 0.5 --round-to 16"
    listed = CliRunner().invoke(main, ["bank", "list", str(bank.folder)]).stdout
    assert "50% by 16" in listed
    other.path.unlink()


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


def test_from_the_command_line(bank: Bank, flat: Path) -> None:
    arguments = ["bank", "build", str(bank.folder), "--macs", "0.6", "--steps", "2", "--no-flip", "--json"]
    empty = CliRunner().invoke(main, [*arguments, "--images", str(flat)])
    assert empty.exit_code == 2
    assert "has no tasks yet, and what units are worth is known from labelled images alone" in empty.output
    assert f"`mvp-deploy bank build {bank.folder} TASK`" in empty.output
    done = CliRunner().invoke(main, [*arguments, TASKS[0], "--images", str(flat)])
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
