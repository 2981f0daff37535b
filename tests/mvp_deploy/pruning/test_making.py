"""The best of several ways to a pruned model, by the training images."""

from __future__ import annotations

import pytest

from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.making import chosen, make
from mvp_deploy.pruning.recipes import Recipe
from tests.mvp_deploy.pruning.test_mvp import voters_of

BUDGET = Budget(0.5)


@pytest.mark.parametrize("neighbours", [True, False])
def test_of_all_ways_the_one_with_the_least_leave_one_out_loss_goes_on(cnn, neighbours: bool) -> None:
    recipe = Recipe(rivals=True)
    made = make(cnn.original, cnn.train, voters_of(cnn, 2) if neighbours else [], recipe, BUDGET)
    losses = made.steps["ways"]
    assert ("votes" in losses) == neighbours
    assert made.loss == min(losses.values())
    assert losses[made.recipe.way] == made.loss
    again = make(cnn.original, cnn.train, voters_of(cnn, 2) if neighbours else [], made.recipe, BUDGET)
    assert again.decision.plan == made.decision.plan


def test_the_choice_is_told_in_a_sentence() -> None:
    lost = chosen({"votes": 1.25, "obs": 0.5, "taylor": 0.75})
    assert lost.startswith("the neighbours' votes lost to obs by leave-one-out loss")
    assert "1.250 against 0.500" in lost
    assert chosen({"votes": 0.5, "obs": 1.25}).startswith("votes had the least")
    assert chosen({"taylor": 0.5, "obs": 1.25}).endswith("0.500 (obs 1.250)")


def test_without_rivals_the_recipe_itself_decides(cnn) -> None:
    made = make(cnn.original, cnn.train, voters_of(cnn, 2), Recipe(), BUDGET)
    assert made.recipe == Recipe()
    assert "ways" not in made.steps
