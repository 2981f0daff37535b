"""Integers that know what they measure, and solving for the attributes behind them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mvp_deploy.base.errors import MvpError
from mvp_deploy.structure import KeepPlan, analyze, prune
from mvp_deploy.structure.axes import Axis, axis_size, fixed
from mvp_deploy.structure.sizes import Attribute, Formula, Observation, Size, Uses
from mvp_deploy.structure.solve import Unsolvable, solve

A, B = Attribute("m", "a"), Attribute("m", "b")


def size(value: int, origin: Attribute | Axis, uses: Uses | None = None) -> Size:
    return Size.of(value, origin, uses or Uses())


def solved(origin: object, becomes: int) -> dict[Attribute, int]:
    return solve([Observation(origin, fixed(becomes))], axis_size)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("compute", "becomes", "value"),
    [
        (lambda a: a, 5, 5),
        (lambda a: 3 * a, 15, 5),
        (lambda a: a * 3, 15, 5),
        (lambda a: a // 2, 4, 8),
        (lambda a: a + 7, 11, 4),
        (lambda a: a - 2, 3, 5),
        (lambda a: 20 - a, 15, 5),
        (lambda a: (3 * a + 1) * 2, 32, 5),
    ],
)
def test_arithmetic_is_undone(compute: object, becomes: int, value: int) -> None:
    computed = compute(size(8, A))  # type: ignore[operator]
    assert computed == compute(8)  # type: ignore[operator]
    assert solved(computed.origin, becomes) == {A: value}


def test_a_size_that_no_value_gives_is_unsolvable() -> None:
    with pytest.raises(Unsolvable, match=r"m\.a"):
        solved((3 * size(4, A)).origin, 10)


def test_two_wishes_for_one_attribute_are_unsolvable() -> None:
    wishes = [Observation(A, fixed(3)), Observation(A, fixed(4))]
    with pytest.raises(Unsolvable, match=r"m\.a"):
        solve(wishes, axis_size)


def test_known_attributes_help_to_find_others() -> None:
    product = (size(4, A) * size(16, B)).origin
    wishes = [Observation(product, fixed(48)), Observation(A, fixed(3))]
    assert solve(wishes, axis_size) == {A: 3, B: 16}


def test_of_two_unknown_factors_the_smaller_count_stays() -> None:
    product = (size(4, Attribute("m", "a", value=4)) * size(16, Attribute("m", "b", value=16))).origin
    assert solved(product, 48) == {A: 4, B: 12}


def test_what_is_only_compared_follows_unless_it_is_known_otherwise() -> None:
    compared = [Observation(A, fixed(3), compared=True)]
    assert solve(compared, axis_size) == {A: 3}
    assert solve([*compared, Observation(A, fixed(5))], axis_size) == {A: 5}


def test_an_equality_between_an_attribute_and_an_axis_is_noted() -> None:
    uses = Uses()
    axis = fixed(8)
    assert size(8, axis, uses) == size(8, A, uses)
    assert uses.compared == [Observation(A, axis, compared=True)]
    assert size(8, axis, uses) != size(9, A, uses)
    assert len(uses.compared) == 1


@pytest.mark.parametrize("use", [float, lambda a: a**-0.5, lambda a: a / 2, lambda a: 1 / a])
def test_use_as_a_quantity_is_noted(use: object) -> None:
    uses = Uses()
    use(size(8, A, uses))  # type: ignore[operator]
    assert uses.quantities == [A]


def test_sizes_are_integers_that_remember_their_formula() -> None:
    computed = size(8, A) // size(2, B)
    assert computed == 4
    assert isinstance(computed.origin, Formula)
    assert hash(computed) == hash(4)
    assert [0, 1, 2, 3, 4][computed] == 4


class Heads(nn.Module):
    """Attention whose sizes are attributes; `scale` says whether the head size is also used as a quantity."""

    def __init__(self, scale: bool, fix: bool = True) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale, self.fix = 4, 8, scale, fix
        self.embed = nn.Linear(12, 16)
        self.qkv = nn.Linear(16, 96)
        self.proj = nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        x = self.embed(x)
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        scale = self.head_dim**-0.5 if self.scale else 0.3
        x = (((q @ k.transpose(-2, -1)) * scale).softmax(-1) @ v).transpose(1, 2)
        width = self.num_heads * self.head_dim if self.fix else 2 * self.qkv.in_features
        return self.head(self.proj(x.reshape(b, n, width)).mean(1))


@pytest.mark.parametrize("scale", [False, True])
def test_a_head_size_used_in_the_scale_cannot_shrink(scale: bool) -> None:
    structure = analyze(Heads(scale), torch.zeros(1, 5, 12))
    kinds = {group.kind: group.size for group in structure.groups}
    assert kinds["head"] == 4
    assert ("head_dim" in kinds) is not scale
    if scale:
        assert any("quantity" in why for frozen in structure.frozen for why in frozen.why)


def test_attributes_follow_the_plan() -> None:
    model = Heads(scale=False).eval()
    structure = analyze(model, torch.zeros(1, 5, 12))
    masks = dict(KeepPlan.full(structure).masks)
    for group in structure.groups:
        if group.kind in ("head", "head_dim"):
            masks[group.name] = masks[group.name].copy()
            masks[group.name][0] = False
    small = prune(structure, model, KeepPlan(masks))
    assert isinstance(small, Heads)
    assert (small.num_heads, small.head_dim) == (3, 7)
    assert (model.num_heads, model.head_dim) == (4, 8)


def test_a_size_the_forward_computes_otherwise_makes_a_traced_program_that_says_why() -> None:
    model = Heads(scale=False, fix=False).eval()
    structure = analyze(model, torch.zeros(1, 5, 12))
    masks = {group.name: torch.arange(group.size).numpy() > 0 for group in structure.groups}
    small = prune(structure, model, KeepPlan(masks))
    assert isinstance(small, torch.fx.GraphModule)
    assert "qkv.in_features" in small.why
    assert small(torch.zeros(2, 5, 12)).shape == (2, 3)


def test_a_plan_for_another_model_is_refused_before_anything_is_cut() -> None:
    model = Heads(scale=False)
    structure = analyze(model, torch.zeros(1, 5, 12))
    with pytest.raises(MvpError, match="another model"):
        prune(structure, model, KeepPlan({"nothing": torch.ones(3, dtype=torch.bool).numpy()}))
