from __future__ import annotations

import numpy as np
import pytest
import torch

from mvp_deploy import backbones
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.evaluate import evaluate, interval, judge
from mvp_deploy.bank.store import Bank
from mvp_deploy.errors import DeployError
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import Schedule
from mvp_deploy.reporter import Silent
from mvp_deploy.tasks import load_task
from mvp_deploy.training import TrainConfig

OWN = np.array([0.5, 0.6, 0.7, 0.6, 0.5, 0.7])


def table(**arms: np.ndarray) -> dict[str, np.ndarray]:
    return {name.replace("_", " "): values for name, values in arms.items()}


def test_voting_that_wins_on_every_task_saves_the_steps_that_own_importance_needs_more() -> None:
    arms = table(votes_1=OWN, votes_3=OWN + 0.1, votes_0=OWN - 0.1, own_x1=OWN, own_x2=OWN + 0.05, own_x4=OWN + 0.15)
    found = judge(arms, "default", 100)
    assert (found.helps, found.recipe, found.neighbours) == (True, "default", 3)
    assert found.gain == pytest.approx(0.1)
    assert found.saved == 200  # halfway between 200 and 400 steps, less the 100 that voting took
    assert "saves you about 200 steps" in found.sentence
    assert "neighbours=3" in found.sentence


def test_voting_out_of_reach_of_own_importance_saves_more_than_was_tried() -> None:
    arms = table(votes_1=OWN + 0.2, own_x1=OWN, own_x2=OWN + 0.01, own_x4=OWN + 0.02)
    assert judge(arms, "default", 50).saved is None
    assert "more than 150 steps" in judge(arms, "default", 50).sentence


def test_a_gain_within_chance_is_no_gain() -> None:
    noise = np.array([0.1, -0.1, 0.05, -0.04, 0.02, -0.02])
    found = judge(table(votes_1=OWN + noise, own_x1=OWN, own_x2=OWN, own_x4=OWN), "default", 100)
    assert (found.helps, found.recipe) == (False, "own")
    assert "does not help" in found.sentence
    assert "--recipe own" in found.sentence


def test_the_luckiest_of_many_arms_is_not_taken_at_its_word() -> None:
    rng = np.random.default_rng(0)
    noise = {f"votes {n}": OWN + rng.normal(0, 0.05, 6) for n in range(1, 30)}
    found = judge(noise | {"own x1": OWN, "own x2": OWN, "own x4": OWN}, "default", 100)
    assert max(values.mean() for values in noise.values()) - OWN.mean() > 0.02  # the best looks good
    assert not found.helps


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = [low < 0.3 < high for low, high in (interval(rng.normal(0.3, 1, 10)) for _ in range(200))]
    assert 0.88 < np.mean(held) < 0.99


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    made = Bank.init(tmp_path_factory.mktemp("bank") / "b", *backbones.create("test_resnet", image_size=32))
    for spec in ("digits#0,1", "digits#2,3", "digits#4,5", "digits#6,7"):
        task, config = load_task(spec), TrainConfig(steps=4, batch_size=16)
        add_task(made, task, Budget(0.5), Schedule(1, 2), config, device=torch.device("cpu"), reporter=Silent())
    return made


def test_every_task_is_left_out_in_turn(bank: Bank) -> None:
    found = evaluate(bank, (), 3, [0], device=torch.device("cpu"), reporter=Silent())
    assert found.tasks == 4
    assert found.steps == 3
    assert set(found.accuracy) == {"votes 1", "votes 2", "votes 0", "own x1", "own x2", "own x4"}  # 3 others: 3 is all
    assert found.low <= found.gain <= found.high


def test_too_few_tasks_are_refused(bank: Bank) -> None:
    with pytest.raises(DeployError, match="2 tasks"):
        evaluate(bank, ("digits#0,1", "digits#2,3"), 3, [0], device=torch.device("cpu"), reporter=Silent())
