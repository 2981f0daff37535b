"""An operator of one's own, taught from outside with `structure.rule`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from reference import random_plan, randomise, relative_error
from torch import Tensor, nn

from mvp_deploy import structure
from mvp_deploy.base.errors import InputError, MvpError, ParityError, StructureError
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.structure import prune, silence
from mvp_deploy.structure.rules.registry import OPERATORS


@torch.library.custom_op("own_operators::weighted", mutates_args=())
def weighted(x: Tensor, weight: Tensor) -> Tensor:
    """The last dimension times a weight, tokens in reverse."""
    return (x * weight).flip(1)


@weighted.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("own_operators::rolled", mutates_args=())
def rolled(x: Tensor, weight: Tensor) -> Tensor:
    """Every unit in the place of the next, times one number."""
    return x.roll(1, -1) * weight.mean()


@rolled.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


class Net(nn.Module):
    def __init__(self, operator: Any = torch.ops.own_operators.weighted) -> None:
        super().__init__()
        self.operator = operator
        self.embed, self.scale, self.head = nn.Linear(6, 12), nn.Parameter(torch.rand(12)), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operator(self.embed(x), self.scale))


TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    before = dict(OPERATORS)
    yield
    OPERATORS.clear()
    OPERATORS.update(before)


def test_an_operator_without_a_rule_freezes_and_is_named() -> None:
    parts = structure.analyze(Net(), TOKENS)
    assert parts.unknown == {"own_operators::weighted": 1}
    assert not parts.groups


@pytest.mark.parametrize("operator", [torch.ops.own_operators.weighted, torch.ops.own_operators.weighted.default])
def test_a_rule_of_one_s_own_lets_its_units_go(operator: object) -> None:
    @structure.rule(operator)
    def weighted_rule(trace, args, kwargs, out) -> None:
        x, weight = args
        trace.unify(trace.axis(x, -1), trace.axis(weight, 0))
        trace.freeze(trace.axis(x, 1))
        trace.set(out, list(trace.axes(x)))

    model = randomise(Net().eval())
    parts = structure.analyze(model, TOKENS)
    assert {group.name: group.size for group in parts.groups} == {"embed": 12}
    plan = random_plan(parts, 0)
    small = prune(parts, model, plan)
    assert isinstance(small, Net)
    with torch.no_grad():
        assert relative_error(small(TOKENS), silence(parts, model, plan)(TOKENS)) < 1e-5


@pytest.mark.parametrize("fault", ["raises", "speaks of another shape"])
def test_a_rule_that_fails_freezes_what_went_in_and_says_so(fault: str) -> None:
    @structure.rule(torch.ops.own_operators.weighted)
    def weighted_rule(trace, args, kwargs, out) -> None:
        if fault == "raises":
            raise KeyError("dim")
        trace.set(out, [structure.fixed(7)])

    parts = structure.analyze(Net(), TOKENS)
    assert not parts.groups
    assert any("whose rule fails" in why for frozen in parts.frozen for why in frozen.why)
    assert parts.unknown == {"own_operators::weighted": 1}


@pytest.mark.parametrize(("operator", "error"), [("weighted", StructureError), ("rolled", ParityError)])
def test_the_error_of_a_rule_that_is_wrong_names_the_rule(operator: str, error: type[MvpError]) -> None:
    own = getattr(torch.ops.own_operators, operator)

    @structure.rule(own)
    def careless(trace, args, kwargs, out) -> None:  # does not unify x with the weight, nor freeze what is rolled
        trace.set(out, list(trace.axes(args[0])))

    model = randomise(Net(own).eval())
    parts = structure.analyze(model, TOKENS)
    with pytest.raises(error, match=rf"Check first the rule .*careless, which own_operators::{operator} was taught"):
        prune(parts, model, random_plan(parts, 0))


def test_a_budget_that_an_unknown_operator_puts_out_of_reach_names_it() -> None:
    with pytest.raises(InputError, match="teach the analysis own_operators::weighted"):
        cheapest(structure.analyze(Net(), TOKENS), Budget(0.5, "macs"), {})
