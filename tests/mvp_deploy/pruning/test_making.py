"""The best of several ways to a pruned model, by the training images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes.profiles import blocks_of, profile_by

from mvp_deploy.bank.pool import part
from mvp_deploy.base.reporter import Silent
from mvp_deploy.latency.meet import Meeting, Target
from mvp_deploy.pruning.blocks import Worth
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.making import chosen, make
from mvp_deploy.pruning.mvp import importances, in_rounds
from mvp_deploy.pruning.recipes import RECIPES, Recipe
from mvp_deploy.structure import Structure
from tests.mvp_deploy.pruning.test_mvp import voters_of

BUDGET = Budget(0.5, "units")


@pytest.mark.parametrize("neighbours", [True, False])
def test_of_all_ways_the_one_with_the_least_leave_one_out_loss_goes_on(cnn, neighbours: bool) -> None:
    recipe = Recipe(rivals=True)
    made = make(cnn.original, cnn.train, voters_of(cnn, 2) if neighbours else [], recipe, BUDGET)
    losses = made.steps["ways"]
    assert ("votes" in losses) == neighbours
    assert losses[made.recipe.way] == min(losses.values())
    again = make(cnn.original, cnn.train, voters_of(cnn, 2) if neighbours else [], made.recipe, BUDGET)
    assert again.decision.plan == made.decision.plan


def test_a_model_made_of_the_same_images_again_is_the_same_and_of_fewer_another(both) -> None:
    made = make(both.original, both.train, [], RECIPES["compensated"], Budget(0.5, "macs"))
    of_fewer = made.of_fewer(both.original)
    assert of_fewer is not None
    again, fewer = of_fewer(both.train), of_fewer(both.train.subset(torch.arange(0, len(both.train), 2)))
    same = [torch.allclose(value, made.model.state_dict()[name]) for name, value in again.state_dict().items()]
    assert all(same)
    assert not all(torch.allclose(value, fewer.state_dict()[name]) for name, value in again.state_dict().items())


def test_what_is_made_of_neighbours_weights_is_not_made_again(cnn) -> None:
    made = make(cnn.original, cnn.train, voters_of(cnn, 2), Recipe(), BUDGET)
    assert made.of_fewer(cnn.original) is None


def test_more_rounds_are_taken_only_where_the_training_images_favour_them(both) -> None:
    recipe = Recipe(rivals=True, rounds=2)
    made = make(both.original, both.train, [], recipe, Budget(0.5, "macs"))
    losses = made.steps["ways"]
    once = [way for way in losses if not way.endswith("in 2 rounds")]
    [rounds] = set(losses) - set(once)
    assert rounds.removesuffix(" in 2 rounds") == min(once, key=lambda way: losses[way])
    assert losses[made.recipe.way] == min(losses.values())
    units = make(both.original, both.train, [], recipe, Budget(0.5, "units"))
    assert not any("rounds" in way for way in units.steps["ways"])


def test_a_killed_call_goes_on_with_what_it_had_decided(cnn, tmp_path: Path) -> None:
    known, asked = importances(cnn.original, cnn.train), []

    def first(criterion: str) -> Scores:
        if criterion == "obs":
            raise KeyboardInterrupt
        return known(criterion)

    def second(criterion: str) -> Scores:
        asked.append(criterion)
        return known(criterion)

    calls = [
        partial(make, cnn.original, cnn.train, [], Recipe(rivals=True), Budget(0.5, "macs"), importance=importance)
        for importance in (first, second)
    ]
    with pytest.raises(KeyboardInterrupt):
        calls[0](memory=tmp_path)
    made = calls[1](memory=tmp_path)
    assert asked == ["obs"]
    fresh = calls[1]()
    assert made.decision.plan == fresh.decision.plan
    assert made.steps["ways"] == fresh.steps["ways"]
    assert same(made.model, fresh.model)


def test_the_choice_is_told_in_a_sentence() -> None:
    lost = chosen({"votes": 1.25, "obs": 0.5, "taylor": 0.75})
    assert lost.startswith("the neighbours' votes lost to obs by loss on the training images")
    assert "1.250 against 0.500" in lost
    assert chosen({"votes": 0.5, "obs": 1.25}).startswith("votes had the least")
    assert chosen({"taylor": 0.5, "obs": 1.25}).endswith("0.500 (obs 1.250)")


def test_rounds_meet_the_budget_of_a_cost_and_end_in_another_model(both) -> None:
    original, recipe = both.original, RECIPES["compensated"]
    once, made = (make(original, both.train, [], replace(recipe, rounds=n), Budget(0.5, "macs")) for n in (1, 2))
    assert original.cost(made.decision.plan).macs <= 0.5 * original.cost().macs
    assert not same(once.model, made.model)
    assert all(bool(made.model(x).isfinite().all()) for x, _ in both.test.batches(64))


def test_a_budget_of_units_is_met_in_one_round(cnn) -> None:
    recipe = RECIPES["own"]
    once, made = (make(cnn.original, cnn.train, [], replace(recipe, rounds=n), BUDGET) for n in (1, 2))
    assert same(once.model, made.model)


def test_one_round_is_one_cut(cnn) -> None:
    recipe = RECIPES["compensated"]
    made = make(cnn.original, cnn.train, [], recipe, BUDGET)
    own = importances(cnn.original, cnn.train)("obs")
    assert in_rounds(cnn.original, cnn.train, recipe, BUDGET, lambda: own).plan == made.decision.plan


def test_the_model_that_goes_on_is_re_solved_on_more_images_than_those_it_was_compared_with(cnn) -> None:
    many = make(cnn.original, cnn.train, [], RECIPES["compensated"], BUDGET)
    few = make(cnn.original, part(cnn.train, 100, 0), [], RECIPES["compensated"], BUDGET)
    assert few.steps["reconstruction"]["images"] == 100
    assert many.steps["reconstruction"]["images"] == min(len(cnn.train), 1024) > 256


@dataclass
class AllOrBlocks:
    """Allots all units, without the first block if blocks have a worth."""

    structure: Structure

    def __call__(self, scores: object, worth: Worth | None = None, **_: object) -> SimpleNamespace:
        counts = {group.name: group.size for group in self.structure.groups}
        without = frozenset([self.structure.blocks[0].name]) if worth else frozenset()
        return SimpleNamespace(counts=counts, without=without, told={"blocks": sorted(without)})


def test_a_plan_without_a_block_has_a_rival_and_the_training_images_choose(cnn) -> None:
    structure, recipe = cnn.original.structure, RECIPES["compensated"]
    made = make(cnn.original, cnn.train, [], recipe, BUDGET, allocate=AllOrBlocks(structure))
    losses = made.steps["ways"]
    assert set(losses) == {recipe.way, f"{recipe.way} and whole blocks"}
    assert losses[made.way] == min(losses.values())
    assert made.decision.allotted == {"blocks": sorted(made.decision.plan.without)}
    alone = make(cnn.original, cnn.train, [], recipe, BUDGET, allocate=AllOrBlocks(structure), worth=lambda: None)
    assert "ways" not in alone.steps


def test_a_time_is_met_in_one_round_and_in_the_recipe_s_rounds_and_the_training_images_choose(cnn) -> None:
    structure, rounds = cnn.original.structure, replace(RECIPES["compensated"], rounds=3)
    meeting = Meeting(
        structure, profile_by(cnn.original.model, structure, blocks_of(1)), Target(speed_up=2.0),
        round_to=1, timer=None, reporter=Silent(),
    )  # fmt: skip
    made = make(cnn.original, cnn.train, [], rounds, meeting.budget, allocate=meeting)
    losses = made.steps["ways"]
    assert set(losses) >= {rounds.way, replace(rounds, rounds=1).way}
    assert losses[made.way] == min(losses.values())
    counts = {group.name: made.decision.plan.kept(group.name) for group in structure.groups}
    assert meeting.cost.without(made.decision.plan.without).total(counts) <= meeting.full / 2


def test_where_everything_stays_nothing_is_scored(cnn) -> None:
    def never(criterion: str) -> dict[str, np.ndarray]:
        raise AssertionError(criterion)

    whole = Budget(1.0, "macs")
    made = make(cnn.original, cnn.train, voters_of(cnn, 2), RECIPES["default"], whole, importance=never)
    assert made.decision.plan == cnn.original.full
    assert "ways" not in made.steps


def test_without_rivals_the_recipe_itself_decides(cnn) -> None:
    made = make(cnn.original, cnn.train, voters_of(cnn, 2), Recipe(), BUDGET)
    assert made.recipe == Recipe()
    assert "ways" not in made.steps


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    state = other.state_dict()
    return all(v.shape == state[n].shape and torch.equal(v, state[n]) for n, v in one.state_dict().items())
