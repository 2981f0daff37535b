"""The knapsack on a small convolutional net and a small transformer, without any training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from mvp_deploy.base.errors import MvpError
from mvp_deploy.pruning.budget import Budget, allowed_counts, keep_best
from mvp_deploy.pruning.knapsack import Units, cheapest, cost_of
from mvp_deploy.structure import KeepPlan, Structure, analyze


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Conv2d(width, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(x)))


@pytest.fixture(scope="module")
def net() -> Structure:
    layers = nn.Conv2d(3, 16, 3), Block(16, 32), Block(16, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    return analyze(nn.Sequential(*layers), torch.zeros(2, 3, 12, 12))


@pytest.fixture(scope="module")
def transformer() -> Structure:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return analyze(nn.Sequential(layer, nn.Linear(32, 3)), torch.zeros(2, 7, 32))


@pytest.fixture(params=["net", "transformer"])
def either(request: pytest.FixtureRequest) -> Structure:
    return request.getfixturevalue(request.param)


def drawn(structure: Structure, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {group.name: rng.lognormal(0, 2, group.size) for group in structure.groups}


@pytest.mark.parametrize("of", ["macs", "params", "units"])
@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("fraction", [0.9, 0.6, 0.35])
def test_the_budget_is_met_within_the_cheapest_step_and_no_group_is_emptied(
    either: Structure, of: str, round_to: int, fraction: float
) -> None:
    cost = cost_of(either, of)
    counts = cheapest(either, Budget(fraction, of, round_to), drawn(either))
    left = fraction * cost.total({g.name: g.size for g in either.groups}) - cost.total(counts)
    assert left >= -1e-6
    for group in either.groups:
        allowed = allowed_counts(group, round_to)
        assert counts[group.name] in allowed
        more = allowed[allowed > counts[group.name]]
        if len(more):
            grown = {**counts, group.name: int(more[0])}
            assert cost.saving(grown, group.name, counts[group.name]) > left


def test_what_a_tally_says_is_what_the_smaller_model_costs(either: Structure) -> None:
    counts = {group.name: max(1, group.size // 3) for group in either.groups}
    cost = either.cost(keep_best(either, {}, counts))
    assert cost_of(either, "macs").total(counts) == cost.macs
    assert cost_of(either, "params").total(counts) == cost.params
    tally, name = cost_of(either, "macs"), either.groups[0].name
    fewer = {**counts, name: counts[name] - 1}
    assert tally.saving(counts, name, fewer[name]) == pytest.approx(tally.total(counts) - tally.total(fewer))


def test_the_greedy_choice_is_the_best_of_all_where_costs_add_up(net: Structure) -> None:
    scores = drawn(net, seed=3)
    sizes = {g.name: allowed_counts(g, 8) for g in net.groups}
    losses = {name: np.append(0, np.cumsum(np.sort(scores[name]))) for name in sizes}

    def rise(counts: dict[str, int]) -> float:
        return sum(losses[name][len(scores[name]) - count] for name, count in counts.items())

    cost = Units(net)
    for fraction in (0.75, 0.5):
        counts = cheapest(net, Budget(fraction, "units", 8), scores)
        used = cost.total(counts)  # the best of all plans that use no more than it does
        every = (dict(zip(sizes, choice, strict=True)) for choice in itertools.product(*sizes.values()))
        best = min(rise(plan) for plan in every if cost.total(plan) <= used)
        assert rise(counts) <= best * 1.1 + 1e-12


def test_the_scale_of_a_group_decides_how_much_of_it_goes(net: Structure) -> None:
    scores = {group.name: np.ones(group.size) for group in net.groups}
    cheap, dear = (group for group in net.groups if group.name in ("1.up", "2.up"))
    scores[cheap.name] *= 1e-6
    counts = cheapest(net, Budget(0.75, "macs", 1), scores)
    assert counts[cheap.name] < cheap.size / 4
    assert counts[dear.name] == dear.size


def test_equal_rises_are_taken_where_they_save_most(net: Structure) -> None:
    scores = {group.name: np.ones(group.size) for group in net.groups}
    counts = cheapest(net, Budget(0.7, "macs", 1), scores)
    assert counts["0"] < 16  # a channel of the stream is read and written by everything
    assert counts["1.up"] == 32
    assert counts["2.up"] == 64


def test_cutting_further_keeps_within_the_plan(net: Structure) -> None:
    scores = drawn(net)
    first = keep_best(net, scores, cheapest(net, Budget(0.7, "macs", 1), scores))
    other = drawn(net, seed=1)
    second = keep_best(net, other, cheapest(net, Budget(0.4, "macs", 1), other, within=first), within=first)
    assert all((second.masks[name] <= mask).all() for name, mask in first.masks.items())
    assert net.cost(second).macs <= 0.4 * net.cost().macs
    assert cheapest(net, Budget(1.0, "units"), other, within=first) == {n: first.kept(n) for n in first.masks}


def test_what_cannot_be_reached_is_refused_with_what_can(net: Structure) -> None:
    with pytest.raises(MvpError, match=r"cannot shrink to 0\.1% of its macs: the smallest it allows is \d"):
        cheapest(net, Budget(0.001, "macs"), drawn(net))
    smallest = cheapest(net, Budget(0.001, "units"), drawn(net))
    assert KeepPlan({g.name: np.arange(g.size) < smallest[g.name] for g in net.groups})


def test_without_any_difference_groups_shrink_the_same(net: Structure) -> None:
    counts = cheapest(net, Budget(0.5, "units", 1), {group.name: np.zeros(group.size) for group in net.groups})
    assert all(counts[group.name] / group.size == pytest.approx(0.5, abs=0.05) for group in net.groups)
