from __future__ import annotations

import pytest

from mvp_deploy.base.errors import MvpError
from mvp_deploy.pruning.recipes import RECIPES, Recipe, changed, recipe_named


def test_the_paper_s_setting_is_the_published_one() -> None:
    paper = recipe_named("paper")
    assert (paper.votes, paper.nearest_by, paper.weighting, paper.select) == ("mask", "leep", "plain", "sample")
    assert (paper.own, paper.scope, paper.weights, paper.head, paper.lean) == (0.0, "uniform", "average", "fresh", 0.0)


def test_recipes_that_ask_nobody_decide_alone() -> None:
    for name in ("own", "magnitude", "random"):
        recipe = RECIPES[name]
        assert not recipe.asks_neighbours
        assert recipe.own == 1.0
        assert recipe.weights == "pretrained"


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(MvpError, match="default, paper, one-shot, compensated, lent, own"):
        recipe_named("papper")


def test_fields_can_be_changed_by_words() -> None:
    recipe = changed(Recipe(), ["neighbours=3", "own=0.25", "reconstruct=false", "weights=average"])
    assert (recipe.neighbours, recipe.own, recipe.reconstruct, recipe.weights) == (3, 0.25, False, "average")
    assert changed(Recipe(), []) == Recipe()


@pytest.mark.parametrize(
    "change",
    ["colour=red", "own=much", "own=2", "reconstruct=perhaps", "norms=warm", "weights=heavy", "neighbours=-1", "own"],
)
def test_a_change_that_makes_no_sense_is_refused(change: str) -> None:
    with pytest.raises(MvpError):
        changed(Recipe(), [change])
