from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvp_deploy.pruning.budget import Budget, counts_for, keep_best, uniform, units_kept
from mvp_deploy.pruning.making import make
from mvp_deploy.pruning.mvp import decide
from mvp_deploy.pruning.original import check_exact
from mvp_deploy.pruning.recipes import RECIPES, Recipe
from mvp_deploy.pruning.votes import Voter

BUDGET = Budget(0.5, "units")


def voters_of(setting, number: int, *, scale: float = 1.0) -> list[Voter]:
    """Neighbours that kept random halves; each multiplied the pretrained weights by its own number."""
    original, structure = setting.original, setting.original.structure
    voters = []
    for index in range(number):
        plan = keep_best(structure, {}, counts_for(structure, BUDGET, uniform(structure)), seed=index)
        state = {
            name: value * (index + 2) if value.is_floating_point() else value
            for name, value in original.pruned(plan).state_dict().items()
        }
        scores = {group.name: np.arange(group.size, dtype=float) for group in structure.groups}
        voters.append(Voter(f"task {index}", 0.9 - 0.2 * index, plan, scores, lambda state=state: state))
    return voters


@pytest.mark.parametrize(("even", "wanted"), [(1e-9, "own"), (1e9, "lent")])
def test_few_images_leave_the_say_to_lent_importance(cnn, even: float, wanted: str) -> None:
    structure, recipe = cnn.original.structure, Recipe(votes="lent", weights="pretrained", even=even)
    own = {group.name: np.arange(group.size, dtype=float)[::-1] for group in structure.groups}
    decision = decide(cnn.original, cnn.train, voters_of(cnn, 3), recipe, BUDGET, importance=lambda: own)
    for group in structure.groups:
        kept = np.flatnonzero(decision.plan.masks[group.name])
        rest = np.setdiff1d(np.arange(group.size), kept)
        assert not len(rest) or (kept.max() < rest.min() if wanted == "own" else kept.min() > rest.max())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_an_exact_model_of_the_size_asked_for(both, name: str) -> None:
    recipe, original = replace(RECIPES[name], rivals=False), both.original
    made = make(original, both.train, voters_of(both, 3), recipe, BUDGET)
    decision = made.decision
    assert check_exact(original, decision.plan, made.model, both.test) < 1e-5
    uniformly = counts_for(original.structure, BUDGET, uniform(original.structure))
    if recipe.scope == "uniform":
        assert {name: int(mask.sum()) for name, mask in decision.plan.masks.items()} == uniformly
    else:  # as many units in all, shared out otherwise
        assert units_kept(original.structure, decision.plan) <= BUDGET.fraction + 1e-9
    assert decision.plan == decide(original, both.train, voters_of(both, 3), recipe, BUDGET).plan
    assert bool(decision.voters) == recipe.asks_neighbours


def test_unanimous_neighbours_get_what_they_want(cnn) -> None:
    one = voters_of(cnn, 1)[0]
    recipe = Recipe(own=0.0)
    decision = decide(cnn.original, cnn.train, [one, one, one], recipe, BUDGET)
    assert decision.plan == one.plan
    assert set(decision.unanimity.values()) == {1.0}
    assert decision.own == 0
    assert not decision.warnings


def test_score_votes_allow_any_size(cnn) -> None:
    one = voters_of(cnn, 1)[0]
    decision = decide(cnn.original, cnn.train, [one, one], RECIPES["one-shot"], Budget(0.25, "units"))
    for group in cnn.original.structure.groups:
        kept = np.flatnonzero(one.plan.masks[group.name])
        assert (
            np.flatnonzero(decision.plan.masks[group.name]).tolist() == kept[-decision.plan.kept(group.name) :].tolist()
        )


def test_weights_are_averaged_over_the_neighbours_that_kept_them(cnn) -> None:
    original, voters = cnn.original, voters_of(cnn, 2)
    recipe = Recipe(weighting="plain", own=0.0, weights="average", head="fresh", norms="trained")
    made = make(original, cnn.train, voters, recipe, BUDGET)
    state = made.model.state_dict()
    pretrained = original.model.state_dict()
    factors: dict[tuple[bool, bool], float] = {(True, True): 2.5, (True, False): 2, (False, True): 3, (False, False): 1}
    name, group = "bn1.weight", "layer1.0.conv1"
    name = f"{group.removesuffix('conv1')}bn1.weight"
    units = np.flatnonzero(made.decision.plan.masks[group])
    for position, unit in enumerate(units):
        kept = tuple(bool(voter.plan.masks[group][unit]) for voter in voters)
        assert state[name][position] == pytest.approx(float(factors[kept] * pretrained[name][unit]), rel=1e-5)
    torch.testing.assert_close(state["fc.bias"], pretrained["fc.bias"])  # a new task's head is nobody's average
    nearest = make(original, cnn.train, voters, replace(recipe, weights="nearest"), BUDGET).model.state_dict()
    for position, unit in enumerate(units):
        factor = 2 if voters[0].plan.masks[group][unit] else 1
        assert nearest[name][position] == pytest.approx(float(factor * pretrained[name][unit]), rel=1e-5)


def test_one_neighbour_is_too_few_to_follow(cnn) -> None:
    voter = voters_of(cnn, 1)
    leaning = decide(cnn.original, cnn.train, voter, Recipe(own=0.1, lean=0.5, weights="average"), BUDGET)
    assert leaning.own == 0.5
    assert leaning.initial == "average"  # units that a neighbour kept start better from its weights (docs/voting.md)
    assert "Only 1 neighbour" in leaning.warnings[0]
    wanted = decide(cnn.original, cnn.train, voter, Recipe(own=0.1, weights="average", neighbours=1), BUDGET)
    assert wanted.own == 0.1
    assert wanted.initial == "average"
    assert not wanted.warnings
    paper = decide(cnn.original, cnn.train, voter, RECIPES["paper"], BUDGET)
    assert paper.own == 0.0
    assert paper.initial == "average"
    assert "worth less" in paper.warnings[0]


def test_distant_neighbours_are_not_followed(cnn) -> None:
    decision = decide(cnn.original, cnn.train, voters_of(cnn, 3), Recipe(own=0.1, lean=0.5), BUDGET, too_distant=True)
    assert decision.own == 0.5
    assert "farther from this one" in decision.warnings[0]


@pytest.mark.parametrize("name", ["default", "paper"])
def test_without_neighbours_the_target_decides_alone_and_a_warning_says_so(cnn, name: str) -> None:
    alone = decide(cnn.original, cnn.train, [], RECIPES[name], BUDGET)
    assert (alone.own, alone.initial) == (1.0, "pretrained")
    assert "no other task" in alone.warnings[0]
    assert alone.plan == decide(cnn.original, cnn.train, [], RECIPES["own"], BUDGET).plan


@pytest.mark.parametrize("scope", ["global", "neighbours"])
def test_sizes_may_differ_between_groups(cnn, scope: str) -> None:
    voters = voters_of(cnn, 2)
    uneven = {
        group.name: np.arange(group.size) < group.size * (0.75 if index % 2 else 0.25)
        for index, group in enumerate(cnn.original.structure.groups)
    }
    voters = [replace(voter, plan=type(voter.plan)(uneven)) for voter in voters]
    decision = decide(cnn.original, cnn.train, voters, Recipe(scope=scope), BUDGET)
    shares = {name: mask.mean() for name, mask in decision.plan.masks.items()}
    assert max(shares.values()) > min(shares.values()) + 0.1
    if scope == "neighbours":
        names = [group.name for group in cnn.original.structure.groups]
        assert min(shares[n] for n in names[1::2]) > max(shares[n] for n in names[0::2])
