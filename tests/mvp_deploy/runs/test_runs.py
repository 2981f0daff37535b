"""Bank and runs end to end on a real task: `bank add`, then `prune`, through the library."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvp_deploy import backbones, runs
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.alone import alone
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.formats import unsealed
from mvp_deploy.base.reporter import Silent
from mvp_deploy.pruning import pruned, rotation
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import LongWay, Schedule
from mvp_deploy.pruning.recipes import RECIPES, Recipe
from mvp_deploy.runs import Run
from mvp_deploy.tasks import load_task
from mvp_deploy.training import TrainConfig, accuracy

CPU = torch.device("cpu")
CONFIG = TrainConfig(steps=5, batch_size=16, lr=0.01)
BUDGET = Budget(0.4, "units")


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


class Killer(Listener):
    """Interrupts the work when something that begins so is said."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def say(self, text: str) -> None:
        if text.startswith(self.at):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def bank(cnn, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    bank = Bank.init(tmp_path_factory.mktemp("bank"), cnn.backbone, cnn.state)
    for spec in ("digits#3,4,5", "digits#1,2,3"):
        how = LongWay(BUDGET, Schedule(2, 3, batches=2), CONFIG)
        add_task(bank, load_task(spec), how, device=CPU, reporter=Silent())
    return bank


VOTED = replace(RECIPES["default"], rivals=False)


def prune(bank: Bank, out: Path, recipe: Recipe = VOTED, listener: Listener | None = None) -> Run:
    return runs.prune_task(
        load_task("digits#0,1,2"), bank, out, runs.Pruning(BUDGET, recipe, CONFIG),
        device=CPU, reporter=listener or Listener(),
    )  # fmt: skip


def test_the_bank_knows_what_a_task_cost_and_gave(bank: Bank, cnn) -> None:
    entry = bank.entry("digits#3,4,5")
    full = cnn.original.cost()
    assert (
        entry.metrics["unpruned_params"]
        == full.params
        > entry.metrics["params"]
        == cnn.original.cost(entry.plan).params
    )
    tuning, rounds = CONFIG.steps, 2 * 3  # two trials of the tuning, after which the model may stay untuned
    assert 2 * tuning + rounds <= entry.cost["steps"] <= 3 * tuning + rounds
    assert entry.cost["seconds"] > 0
    assert entry.cost["macs"] > 3 * 16 * 4 * full.macs
    assert entry.signature().count.sum() == len(load_task("digits#3,4,5").train)
    assert {n: len(s) for n, s in entry.scores().items()} == {g.name: g.size for g in cnn.original.structure.groups}
    assert not list((bank.folder / ".work").glob("*/*"))  # nothing unfinished is left
    model = pruned.rebuild(bank.backbone, entry.plan, 3, entry.weights())
    assert sum(p.numel() for p in model.parameters()) == entry.metrics["params"]


def test_a_run_is_complete_and_reloads_to_the_bit(bank: Bank, tmp_path: Path) -> None:
    run = prune(bank, tmp_path / "run")
    again = runs.load(tmp_path / "run")
    assert again.info == run.info == unsealed(json.loads((tmp_path / "run" / "run.json").read_text()))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "pruned.safetensors",
        "run.json",
        "unpruned.safetensors",
    ]
    info, small, full = again.info, again.pruned(), again.unpruned()
    assert info["task"] == "digits#0,1,2"
    assert small.classes == ("0", "1", "2") == full.classes
    metrics = info["metrics"]
    assert (
        metrics["pruned"]["params"] == sum(p.numel() for p in small.model.parameters()) < metrics["unpruned"]["params"]
    )
    assert metrics["pruned"]["units"] <= 0.4
    assert metrics["pruned"]["exactness"] < 1e-5
    assert {g["name"]: g["kept"] for g in info["groups"]} == {n: int(m.sum()) for n, m in small.plan.masks.items()}
    assert {v["task"] for v in info["votes"]["voters"]} == {"digits#3,4,5", "digits#1,2,3"}
    assert all(0 <= g["unanimity"] <= 1 for g in info["groups"])
    task = load_task("digits#0,1,2")
    from mvp_deploy.tasks import prepare

    test = prepare(task.test, small.backbone.preprocessing)
    assert accuracy(small.model, test) == metrics["pruned"]["accuracy"]
    assert accuracy(full.model, test) == metrics["unpruned"]["accuracy"]


def test_the_same_inputs_give_the_same_model_and_are_not_worked_on_twice(bank: Bank, tmp_path: Path) -> None:
    first = prune(bank, tmp_path / "run").pruned()
    second = prune(bank, tmp_path / "other").pruned()
    assert first.plan == second.plan
    state = second.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.model.state_dict().items())
    before = (tmp_path / "run/run.json").stat().st_mtime_ns
    listener = Listener()
    prune(bank, tmp_path / "run", listener=listener)
    assert any("stays as it is" in text for text in listener.said)
    assert (tmp_path / "run/run.json").stat().st_mtime_ns == before


def test_a_run_goes_on_in_the_directions_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another number of threads, or on another processor, eigenvectors may come out the other way round."""
    start, task = backbones.create("test_efficientnet", image_size=32), load_task("digits#0,1,2")
    here, found = alone(task, *start), rotation.directions
    monkeypatch.setattr(rotation, "directions", lambda *given: -found(*given))
    there = alone(task, *start)
    assert there.backbone.fingerprint != here.backbone.fingerprint
    unbroken = prune(here, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        prune(here, tmp_path / "killed", listener=Killer("pruned model: accuracy"))
    resumed = prune(there, tmp_path / "killed")
    for one, other in ((resumed.pruned(), unbroken.pruned()), (resumed.unpruned(), unbroken.unpruned())):
        state = other.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.model.state_dict().items())
    told = Listener()
    assert prune(there, tmp_path / "unbroken", listener=told).info == unbroken.info
    assert told.said == [f"{tmp_path / 'unbroken'} was made of the same inputs before: it stays as it is"]


def test_directions_that_are_damaged_are_not_made_anew(tmp_path: Path) -> None:
    """What was decided in the old ones may still be there."""
    bank = alone(load_task("digits#0,1,2"), *backbones.create("test_efficientnet", image_size=32))
    file = tmp_path / "backbone.safetensors"
    assert bank.kept(file) is bank
    assert bank.kept(file).backbone == bank.backbone
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(MvpError, match="damaged"):
        bank.kept(file)


def test_a_run_follows_its_task_to_another_name_and_place(bank: Bank, tmp_path: Path) -> None:
    first = prune(bank, tmp_path / "run")
    moved = replace(load_task("digits#0,1,2"), name="small", spec="/elsewhere/digits")
    how = runs.Pruning(BUDGET, VOTED, CONFIG)
    again = runs.prune_task(moved, bank, tmp_path / "run", how, device=CPU, reporter=Silent())
    assert (again.info["task"], again.info["source"]) == ("small", "/elsewhere/digits")
    assert runs.load(tmp_path / "run").info == again.info
    assert again.info["files"] == first.info["files"]


def test_a_baseline_of_another_version_is_trained_again(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune(bank, tmp_path / "run")
    monkeypatch.setattr("mvp_deploy.runs.run.versions", lambda: {"torch": "another"})
    listener = Listener()
    prune(bank, tmp_path / "run", listener=listener)
    assert not any("reused" in text for text in listener.said)


def test_own_importance_stands_beside_the_votes_and_the_choice_is_told(bank: Bank, tmp_path: Path) -> None:
    listener = Listener()
    info = prune(bank, tmp_path / "run", RECIPES["default"], listener).info
    ways = info["metrics"]["pruned"]["making"]["ways"]
    assert set(ways) == {"votes", "lent importance", "taylor", "obs"}
    voted = min(ways, key=ways.__getitem__) in ("votes", "lent importance")
    assert bool(info["votes"]["voters"]) == voted
    assert any("loss on the training images" in text for text in listener.said)


def test_the_paper_s_recipe_and_distillation_run(bank: Bank, tmp_path: Path) -> None:
    paper = prune(bank, tmp_path / "paper", RECIPES["paper"]).info
    assert paper["votes"]["initial_weights"] == "average"
    assert paper["votes"]["own"] == 0
    assert all(v["similarity"] <= 0 for v in paper["votes"]["voters"])  # LEEP is a log-likelihood
    listener = Listener()
    distilled = prune(bank, tmp_path / "paper", replace(VOTED, distill=0.5), listener).info
    assert distilled["training"]["distill"] == 0.5
    assert any("reused" in text for text in listener.said)


@pytest.mark.parametrize("split", [None, 5])  # as the bank's entry, and in another way
def test_a_task_does_not_vote_for_itself(bank: Bank, tmp_path: Path, split: int | None) -> None:
    task = load_task("digits#3,4,5", seed=split)
    run = runs.prune_task(
        task, bank, tmp_path / "run", runs.Pruning(BUDGET, VOTED, CONFIG),
        device=CPU, reporter=Silent(),
    )  # fmt: skip
    assert [v["task"] for v in run.info["votes"]["voters"]] == ["digits#1,2,3"]


def test_a_run_of_which_half_is_new_is_not_trusted(bank: Bank, tmp_path: Path) -> None:
    prune(bank, tmp_path / "a")
    prune(bank, tmp_path / "b", RECIPES["own"])
    (tmp_path / "b" / "pruned.safetensors").replace(tmp_path / "a" / "pruned.safetensors")
    with pytest.raises(MvpError, match="not of one run"):
        runs.load(tmp_path / "a")
    with pytest.raises(MvpError, match="not a finished run"):
        runs.load(tmp_path / "nowhere")


def test_a_folder_of_something_else_is_left_alone(bank: Bank, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(MvpError, match="something else"):
        prune(bank, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_collapse_comes_with_advice(bank: Bank, tmp_path: Path) -> None:
    listener = Listener()
    config = replace(CONFIG, steps=60)
    task = load_task("digits#0,1,2,3")
    recipe = replace(RECIPES["random"], head="fresh", reconstruct=False, norms="trained", judged=False)
    how = runs.Pruning(Budget(0.01, "units"), recipe, replace(config, lr=1e-6))
    runs.prune_task(task, bank, tmp_path / "run", how, device=CPU, reporter=listener)
    assert any("--steps" in text and "--keep" in text for text in listener.warned)


def test_a_model_saved_for_another_structure_is_refused(cnn, tmp_path: Path) -> None:
    plan = cnn.original.full
    state = cnn.original.model.state_dict()
    pruned.save(tmp_path / "m.safetensors", state, cnn.backbone, plan, ("0", "1", "2"), {})
    loaded = pruned.load(tmp_path / "m.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    masks = dict(plan.masks)
    masks.popitem()
    pruned.save(tmp_path / "m.safetensors", state, cnn.backbone, type(plan)(masks), ("0", "1", "2"), {})
    with pytest.raises(MvpError, match="another structure"):
        pruned.load(tmp_path / "m.safetensors")
