"""Whole blocks go where they are predicted to lose less than the units that would go instead."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from fakes.profiles import blocks_of, profile_by, structure_of
from torch import Tensor, nn

import mvp_deploy as mvp
from mvp_deploy.base.errors import InputError
from mvp_deploy.latency.choose import choose
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.pruning.blocks import worth
from mvp_deploy.pruning.yardstick import Measure, Yardstick
from mvp_deploy.structure import KeepPlan, prune
from mvp_deploy.tasks import Images
from mvp_deploy.tasks.own import collect


class Residual(nn.Module):
    """Three residual blocks of 32 channels; the second gives nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)) for _ in range(3)
        )
        nn.init.zeros_(self.branches[1][2].weight)
        nn.init.zeros_(self.branches[1][2].bias)
        self.head = nn.Linear(32, 4)

    def get_classifier(self) -> nn.Linear:
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x.mean((2, 3)))


def labelled(x: Tensor) -> Images:
    """Images of four classes that a model takes as they are."""
    return collect((x, torch.arange(len(x)) % 4), torch.device("cpu"))


torch.manual_seed(0)
MODEL = Residual().eval()
STRUCTURE = structure_of(MODEL)
PROFILE = profile_by(MODEL, STRUCTURE, blocks_of(1))
COST = Milliseconds(STRUCTURE, PROFILE)
FULL = COST.total({group.name: group.size for group in STRUCTURE.groups})
SCORES = {group.name: np.full(group.size, 0.01) for group in STRUCTURE.groups}
NAMES = {"branches.0", "branches.1", "branches.2"}


def priced(prices: Mapping[str, float], asked: list[frozenset[str]] | None = None):
    def measure(gone: frozenset[str]) -> Mapping[str, float]:
        if asked is not None:
            asked.append(gone)
        return {name: price * (1 + len(gone)) for name, price in prices.items() if name not in gone}

    return measure


def test_layers_of_a_block_that_went_take_no_time_and_the_groups_within_save_none() -> None:
    assert {block.name for block in STRUCTURE.blocks} == NAMES
    counts = {group.name: group.size for group in STRUCTURE.groups}
    left = COST.without({"branches.0"})
    assert left.total(counts) == pytest.approx(FULL - 2 * blocks_of(1)(32, 32), rel=1e-3)
    assert left.saving(counts, "branches.0.0", 8) == 0
    assert COST.total(counts) == FULL  # it is a copy
    gone = {group.name for group in STRUCTURE.groups} - {group.name for group in STRUCTURE.left({"branches.0"})}
    assert gone == {"branches.0.0"}


def test_a_block_that_costs_nothing_goes_before_any_unit() -> None:
    found = choose(STRUCTURE, COST, SCORES, 0.8 * FULL, worth=priced({"branches.1": 0.0, "branches.0": 9.0}))
    assert found.without == {"branches.1"}
    assert found.lost == 0
    assert found.ms <= 0.8 * FULL


def test_blocks_that_cost_more_than_units_stay() -> None:
    alone = choose(STRUCTURE, COST, SCORES, 0.8 * FULL)
    found = choose(STRUCTURE, COST, SCORES, 0.8 * FULL, worth=priced(dict.fromkeys(NAMES, 9.0)))
    assert found == alone
    assert not found.without


def test_what_is_left_is_measured_again_after_each_block() -> None:
    asked: list[frozenset[str]] = []
    found = choose(STRUCTURE, COST, SCORES, 0.5 * FULL, worth=priced({"branches.0": 0.01, "branches.2": 0.02}, asked))
    assert asked[:2] == [frozenset(), frozenset({"branches.0"})]
    assert found.without == {"branches.0", "branches.2"}
    assert found.lost >= 0.01 + 2 * 0.02


def test_a_time_that_no_width_meets_is_met_without_blocks() -> None:
    smallest = COST.total({group.name: 8 for group in STRUCTURE.groups})
    limit = 0.9 * smallest
    with pytest.raises(InputError, match="the smallest this backbone gets"):
        choose(STRUCTURE, COST, SCORES, limit)
    found = choose(STRUCTURE, COST, SCORES, limit, worth=priced(dict.fromkeys(NAMES, 1.0)))
    assert found.without
    assert found.ms <= limit


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 4
    return torch.randn(64, 3, 8, 8, generator=generator) + 0.5 * y[:, None, None, None], y


def test_a_branch_that_gives_nothing_goes_first_from_python() -> None:
    smallest = COST.total({group.name: 8 for group in STRUCTURE.groups})  # so no plan with all blocks is a rival
    result = mvp.prune(MODEL, data(), latency=0.9 * smallest, on=PROFILE)
    assert "branches.1" in result.plan.without
    assert result.report.latency is not None
    assert set(result.report.latency.blocks) == result.plan.without
    assert result.report.macs < 0.6 * result.report.full_macs


@pytest.mark.parametrize(("with_all", "without_some"), [(0.1, 0.2), (0.2, 0.1)])
def test_the_loss_says_whether_blocks_go(monkeypatch: pytest.MonkeyPatch, with_all: float, without_some: float) -> None:
    def measure(self: Yardstick, model: nn.Module, plan: KeepPlan) -> Measure:
        return Measure(0.0, 1.0, without_some if plan.without else with_all)

    monkeypatch.setattr(Yardstick, "measure", measure)
    result = mvp.prune(MODEL, data(), speed_up=2, on=PROFILE, round_to=1)
    assert bool(result.plan.without) == (without_some < with_all)
    assert result.report.latency is not None
    assert set(result.report.latency.blocks) == result.plan.without


def test_worth_is_what_the_stream_does_not_tell_and_the_loss_minds() -> None:
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        model.branches[0].requires_grad_(False)
        for branch, inside in ((0, 1.0), (2, 0.1)):  # the first branch gives ten times as much as the last
            model.branches[branch][2].weight.mul_(inside)
    measure = worth(model, structure_of(model), labelled(x))
    assert measure is not None
    rises = measure(frozenset())
    assert rises["branches.1"] == pytest.approx(0, abs=1e-12)
    assert rises["branches.0"] > 10 * rises["branches.2"] > 0
    assert measure(frozenset({"branches.0"})).keys() == {"branches.1", "branches.2"}
    assert measure(frozenset({"branches.0"}))["branches.2"] != rises["branches.2"]


def test_a_branch_that_follows_from_its_stream_is_worth_little() -> None:
    torch.manual_seed(0)
    model, linear = Residual().eval(), Residual().eval()
    for branch in linear.branches:
        branch[0], branch[1] = nn.Conv2d(32, 32, 1), nn.Identity()
        branch[2] = nn.Conv2d(32, 32, 1)
    rises = []
    for each in (model, linear):
        measure = worth(each, structure_of(each), labelled(torch.randn(64, 3, 8, 8)))
        assert measure is not None
        rises.append(max(measure(frozenset()).values()))
    assert rises[1] < 0.1 * rises[0]


def test_a_model_without_blocks_offers_none() -> None:
    small = prune(STRUCTURE, MODEL, KeepPlan(KeepPlan.full(STRUCTURE).masks, frozenset(NAMES)))
    assert worth(small, structure_of(small), labelled(torch.zeros(4, 3, 8, 8))) is None
