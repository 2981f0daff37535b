from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_deploy.base.errors import MvpError
from mvp_deploy.pruning import budget as budgets
from mvp_deploy.pruning.budget import Budget, allowed_counts, counts_for, keep_best, units_kept
from mvp_deploy.pruning.config import LADDER
from mvp_deploy.structure import KeepPlan, UnitGroup

SCOPES = ("uniform", "proportional")


def profile(scope: str, structure, seed: int = 0):
    rng = np.random.default_rng(seed)
    if scope == "uniform":
        return budgets.uniform(structure)
    return budgets.proportional(structure, {g.name: rng.uniform(0.05, 1) for g in structure.groups})


@given(
    size=st.integers(1, 600), round_to=st.sampled_from([1, 2, 8, 16, 32]), kind=st.sampled_from(["channel", "hidden"])
)
def test_allowed_counts_suit_the_hardware_and_the_group(size: int, round_to: int, kind: str) -> None:
    counts = allowed_counts(UnitGroup("g", kind, size, ()), round_to)
    assert counts[0] >= 1
    assert counts[-1] == size
    assert (np.diff(counts) > 0).all()
    if size >= 4 * round_to:
        assert all(count % round_to == 0 for count in counts[:-1])
    assert len(counts) >= min(size, 4)  # never so coarse that there is nothing to choose


def test_heads_go_one_by_one_and_what_lies_in_them_stays() -> None:
    assert allowed_counts(UnitGroup("h", "head", 3, ()), 8).tolist() == [1, 2, 3]
    assert allowed_counts(UnitGroup("h", "head_dim", 64, ()), 8).tolist() == [64]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("of", ["units", "macs", "params"])
@settings(max_examples=15, deadline=None)
@given(fraction=st.floats(0.12, 1.0), round_to=st.sampled_from([1, 8]), seed=st.integers(0, 99))
def test_a_budget_is_kept_and_nearly_used_up(
    both, scope: str, of: str, fraction: float, round_to: int, seed: int
) -> None:
    structure = both.original.structure
    try:
        counts = counts_for(structure, Budget(fraction, of, round_to), profile(scope, structure, seed))
    except MvpError:
        assert of != "units"
        assert fraction < 0.35
        return
    plan = keep_best(structure, {}, counts)
    cost, full = structure.cost(plan), structure.cost()
    got = units_kept(structure, plan) if of == "units" else getattr(cost, of) / getattr(full, of)
    least = {group.name: allowed_counts(group, round_to)[0] for group in structure.groups}
    assert got <= fraction + 1e-9 or counts == least
    assert all(plan.kept(group.name) >= 1 for group in structure.groups)
    if round_to == 1 and scope == "uniform" and of != "units":
        assert got > fraction - 0.25  # a step of heads is coarse


def test_uniform_keeps_the_same_fraction_of_every_group(cnn) -> None:
    structure = cnn.original.structure
    counts = counts_for(structure, Budget(0.5, "units", round_to=1), budgets.uniform(structure))
    assert counts == {group.name: group.size // 2 for group in structure.groups}


def test_proportional_follows_the_shares(cnn) -> None:
    structure = cnn.original.structure
    shares = {group.name: 0.4 for group in structure.groups} | {structure.groups[-1].name: 0.8}
    counts = counts_for(structure, Budget(0.4, "units", round_to=1), budgets.proportional(structure, shares))
    kept = {group.name: counts[group.name] / group.size for group in structure.groups}
    assert kept[structure.groups[-1].name] == pytest.approx(2 * kept[structure.groups[-2].name], rel=0.1)
    everything = counts_for(structure, Budget(1.0, "units"), budgets.proportional(structure, shares))
    assert everything == {group.name: group.size for group in structure.groups}


def test_the_best_scored_units_stay_and_ties_do_not_favour_the_first(cnn) -> None:
    structure = cnn.original.structure
    group = structure.groups[-1]
    scores = {g.name: np.zeros(g.size) for g in structure.groups}
    scores[group.name][[3, 50]] = [1, 2]
    counts = {g.name: 2 for g in structure.groups}
    plan = keep_best(structure, scores, counts, seed=1)
    assert np.flatnonzero(plan.masks[group.name]).tolist() == [3, 50]
    other = structure.groups[0]
    drawn = {tuple(np.flatnonzero(keep_best(structure, scores, counts, seed=s).masks[other.name])) for s in range(8)}
    assert len(drawn) > 1


def test_cutting_further_keeps_only_what_is_left(cnn) -> None:
    structure = cnn.original.structure
    rng = np.random.default_rng(0)
    scores = {g.name: rng.random(g.size) for g in structure.groups}
    first = keep_best(structure, scores, counts_for(structure, Budget(0.6, "units"), budgets.uniform(structure)))
    other = {g.name: rng.random(g.size) for g in structure.groups}
    counts = counts_for(structure, Budget(0.3, "units"), budgets.uniform(structure), within=first)
    second = keep_best(structure, other, counts, within=first)
    assert all((second.masks[name] <= mask).all() for name, mask in first.masks.items())
    assert units_kept(structure, second) <= 0.3
    same = counts_for(structure, Budget(1.0, "units"), budgets.uniform(structure), within=first)
    assert same == {name: int(mask.sum()) for name, mask in first.masks.items()}


def test_what_cannot_be_reached_is_refused_with_what_can(vit) -> None:
    structure = vit.original.structure
    with pytest.raises(MvpError, match=r"cannot shrink to 0\.1% of its params: the smallest it allows is \d"):
        counts_for(structure, Budget(0.001, "params"), budgets.uniform(structure))
    smallest = counts_for(structure, Budget(0.001, "units"), budgets.uniform(structure))
    assert KeepPlan({g.name: np.arange(g.size) < smallest[g.name] for g in structure.groups})


def test_who_names_no_budget_gets_half_of_the_macs_and_the_ladder_has_it() -> None:
    assert Budget.asked() == Budget() == Budget(0.5, "macs")
    assert Budget().fraction in LADDER


@pytest.mark.parametrize(("fraction", "round_to"), [(0, 8), (1.1, 8), (-1, 8), (0.5, 0), (float("nan"), 8)])
def test_impossible_budgets_are_refused(fraction: float, round_to: int) -> None:
    with pytest.raises(MvpError):
        Budget(fraction, "units", round_to=round_to)
