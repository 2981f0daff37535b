from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mvp_deploy import backbones, runs
from mvp_deploy.bank import balance
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.evaluate import ALIKE, ALL, LENT, RANDOM, Verdict, _arms, _left_out, evaluate, judge
from mvp_deploy.bank.images import images_of
from mvp_deploy.bank.pool import tasks_of
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.reporter import Silent
from mvp_deploy.cli import main
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import LongWay, Schedule
from mvp_deploy.pruning.recipes import RECIPES, changed, recipe_named
from mvp_deploy.tasks import load_task
from mvp_deploy.training import TrainConfig

EVENS = (30.0,)  # which is quicker to try than all
OWN = np.array([0.5, 0.6, 0.7, 0.6, 0.5, 0.7])


def table(
    votes: dict[str, np.ndarray], *, later: tuple[float, float] = (0, 0), random: float = 0
) -> dict[str, np.ndarray]:
    """Accuracies of the arms: voting as given, a random leader and own importance with more steps so far above OWN."""
    return votes | {RANDOM: OWN + random, "own x1": OWN, "own x2": OWN + later[0], "own x4": OWN + later[1]}


def test_voting_that_wins_on_every_task_saves_the_steps_that_own_importance_needs_more() -> None:
    votes = {"neighbours=1": OWN, "neighbours=3": OWN + 0.1, ALL: OWN - 0.1, ALIKE: OWN}
    found = judge(table(votes, later=(0.05, 0.15)), "default", 100)
    assert (found.helps, found.recipe, found.settings) == (True, "default", ("neighbours=3",))
    assert found.gain.value == pytest.approx(0.1)
    assert found.saved == 200  # halfway between 200 and 400 steps, less the 100 that voting took
    assert "saves you about 200 steps" in found.sentence
    assert "use --recipe default --set neighbours=3." in found.sentence


def test_what_is_recommended_can_be_asked_for_as_it_is_written() -> None:
    found = judge(table({"neighbours=1": OWN, ALL: OWN + 0.1, ALIKE: OWN + 0.2}), "default", 100)
    assert "--set neighbours=0 --set weighting=plain" in found.sentence
    assert changed(RECIPES[found.recipe], found.settings).weighting == "plain"


def test_how_much_own_importance_counts_is_fitted_to_the_bank() -> None:
    arms = {f"{LENT}{even}": OWN for even in (10, 30, 100, 300, 1000)}
    assert judge(table({ALL: OWN} | arms | {f"{LENT}30": OWN + 0.1}), "lent", 100).even == 30
    assert judge(table({ALL: OWN} | arms), "default", 100).even == 100  # of equals the usual one
    assert judge(table({ALL: OWN}), "paper", 100).even is None
    assert {f"{LENT}10", f"{LENT}1000"} <= _arms(RECIPES["default"], 9, 60, "macs").keys()
    assert not any(LENT in arm for arm in _arms(RECIPES["paper"], 9, 60, "macs"))


def test_the_random_control_is_compared_with_and_never_recommended() -> None:
    better = judge(table({ALL: OWN + 0.2}, random=0.1), "default", 100)
    assert better.nearness.value == pytest.approx(0.1)
    assert "The nearest neighbours are better than random ones (+10.0 points" in better.sentence
    worse = judge(table({ALL: OWN + 0.2}, random=0.3), "default", 100)
    assert worse.settings == ()  # the recipe as it is
    assert "not surely better than random ones (-10.0 points" in worse.sentence


def test_nearness_is_asked_of_the_recipe_as_it_is() -> None:
    votes = {"neighbours=5": OWN + 0.1, "neighbours=20": OWN + 0.2, ALL: OWN}
    assert judge(table(votes), "default", 100).nearness.value == pytest.approx(0.2)
    assert judge(table(votes), "paper", 100).nearness.value == pytest.approx(0.1)


def test_voting_out_of_reach_of_own_importance_saves_more_than_was_tried() -> None:
    arms = table({"neighbours=1": OWN + 0.2, ALL: OWN}, later=(0.01, 0.02))
    assert judge(arms, "default", 50).saved is None
    assert "more than 150 steps" in judge(arms, "default", 50).sentence


def test_a_gain_within_chance_is_not_a_gain() -> None:
    noise = np.array([0.1, -0.1, 0.05, -0.04, 0.02, -0.02])
    found = judge(table({ALL: OWN + noise}), "default", 100)
    assert (found.helps, found.recipe, found.settings) == (False, "default", ())
    assert "does not help" in found.sentence
    assert "--recipe default" in found.sentence  # own importance alone is one of its ways, and not its best


def test_the_luckiest_of_many_arms_is_not_taken_at_its_word() -> None:
    rng = np.random.default_rng(0)
    noise = {f"neighbours={n}": OWN + rng.normal(0, 0.05, 6) for n in range(1, 30)}
    found = judge(table(noise | {ALL: OWN + rng.normal(0, 0.05, 6)}), "default", 100)
    assert max(values.mean() for values in noise.values()) - OWN.mean() > 0.02  # the best looks good
    assert not found.helps


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    made = Bank.init(tmp_path_factory.mktemp("bank") / "b", *backbones.create("test_resnet", image_size=32))
    for spec in ("digits#0,1", "digits#2,3", "digits#4,5", "digits#6,7"):
        how = LongWay(Budget(0.5, "units"), Schedule(1, 2), TrainConfig(steps=4, batch_size=16))
        add_task(made, load_task(spec), how, device=torch.device("cpu"), reporter=Silent())
    return made


@pytest.fixture(scope="module")
def verdict(bank: Bank) -> Verdict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mvp_deploy.bank.evaluate.EVENS", EVENS)
        return evaluate(bank, (), 3, [0], device=torch.device("cpu"), reporter=Silent())


def test_every_task_is_left_out_in_turn(verdict: Verdict) -> None:
    assert verdict.tasks == 4
    assert verdict.steps == 3
    own = {"own x1", "own x2", "own x4"}
    lent = {f"{LENT}{even:g}" for even in EVENS}
    assert set(verdict.accuracy) == {"neighbours=1", ALL, ALIKE, RANDOM} | own | lent  # 3 others: 3 is all
    assert verdict.even in EVENS
    assert verdict.gain.low <= verdict.gain.value <= verdict.gain.high


def test_the_images_are_found_from_any_folder_and_where_the_project_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, draw = tmp_path / "project", np.random.default_rng(0)
    project.mkdir()
    pixels = draw.integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(project / "data.npz", images=pixels, labels=np.arange(40) % 2)
    monkeypatch.chdir(project)
    made = Bank.init(project / "bank", *backbones.create("test_resnet", image_size=32))
    task = load_task("data.npz#0,1")
    how = LongWay(Budget(0.5, "units"), Schedule(1, 1), TrainConfig(steps=1, batch_size=16))
    entry = add_task(made, task, how, device=torch.device("cpu"), reporter=Silent())
    monkeypatch.chdir(tmp_path)
    assert images_of(entry, made).fingerprint == task.fingerprint
    assert [found.name for found in tasks_of(made, (), Silent())] == ["data.npz#0,1"]
    project.rename(tmp_path / "moved")
    moved = Bank.open(tmp_path / "moved/bank")
    assert images_of(moved.entry(task.name), moved).fingerprint == task.fingerprint
    np.savez(tmp_path / "moved/data.npz", images=255 - pixels, labels=np.arange(40) % 2)
    with pytest.raises(MvpError, match="no longer those"):
        images_of(moved.entry(task.name), moved)
    assert tasks_of(moved, ("digits#0,1",), Silent())[0].name == "digits#0,1"


def test_too_few_tasks_are_refused(bank: Bank) -> None:
    with pytest.raises(MvpError, match="2 tasks"):
        evaluate(bank, ("digits#0,1", "digits#2,3"), 3, [0], device=torch.device("cpu"), reporter=Silent())


def test_a_recipe_that_asks_nobody_is_refused(bank: Bank) -> None:
    with pytest.raises(MvpError, match="asks no neighbours"):
        evaluate(bank, (), 3, [0], recipe="own", device=torch.device("cpu"), reporter=Silent())


def test_the_command_prints_the_verdict_and_gives_it_to_machines(
    bank: Bank, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(asked: Bank, tasks: Sequence[str], steps: int, seeds: Sequence[int], **named: object) -> Verdict:
        assert (asked.folder, tasks, steps, *seeds) == (bank.folder, (), 3, 0)
        assert named["recipe"] == "default"
        return verdict

    monkeypatch.setattr("mvp_deploy.bank.evaluate.evaluate", found)
    asked = ["bank", "evaluate", str(bank.folder), "--steps", "3", "--device", "cpu"]
    done = CliRunner().invoke(main, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["tasks"] == 4
    assert told["nearness"].keys() == {"value", "low", "high"}
    said = CliRunner().invoke(main, asked).stdout
    assert told["verdict"] in said
    assert f"count the same at {verdict.even:g} training images, as `bank evaluate` found on 4 tasks" in said
    kept = balance.read(bank)
    assert kept is not None
    assert (kept.even, kept.tasks) == (verdict.even, 4)


def test_recipes_that_lend_go_by_what_the_bank_keeps(bank: Bank) -> None:
    kept = balance.store(bank, 30.0, 4)
    for name, changes in (("default", []), ("lent", []), ("paper", ["votes=lent", "even=0"])):
        assert balance.of(bank, recipe_named(name, changes)) == kept
    for name, changes in (("default", ["even=50"]), ("default", ["rivals=false"]), ("own", ["even=0"]), ("paper", [])):
        assert balance.of(bank, recipe_named(name, changes)) is None


def test_a_run_says_what_it_went_by(bank: Bank, tmp_path: Path) -> None:
    balance.store(bank, 30.0, 4)
    said: list[str] = []
    listener = Silent()
    listener.say = said.append  # type: ignore[method-assign]
    how = runs.Pruning(Budget(0.5), recipe_named("lent"), TrainConfig(steps=1, batch_size=16))
    run = runs.prune_task(
        load_task("digits#8,9"), bank, tmp_path / "run", how, device=torch.device("cpu"), reporter=listener
    )
    assert any("the same at 30 training images, as `bank evaluate` found on 4 tasks" in line for line in said)
    images = run.info["images"]["train"]
    assert run.info["recipe"]["even"] == 30.0
    assert run.info["votes"]["own"] == pytest.approx(images / (images + 30))


@pytest.mark.parametrize("damage", ['{"format": 1}', "{", '{"format": 9}'])
def test_what_the_bank_keeps_is_verified(bank: Bank, damage: str) -> None:
    balance.store(bank, 30.0, 4)
    file = bank.folder / "balance.json"
    assert bank.verify() == []
    try:
        file.write_text(damage)
        with pytest.raises(MvpError, match=r"balance\.json.*bank evaluate"):
            balance.read(bank)
        [problem] = bank.verify()
        assert str(file) in problem
    finally:
        file.unlink()
    assert balance.read(bank) is None


def test_an_attempt_ends_the_same_the_second_time(bank: Bank) -> None:
    entry = bank.entry("digits#0,1")
    arms = {"one": (changed(RECIPES["default"], ["rivals=false"]), 3)}
    first, second = (_left_out(bank, entry, arms, [0], torch.device("cpu")) for _ in range(2))
    assert first == second
