"""Residual branches removed whole: found from the structure; the smaller model is the one whose branches give zero."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from reference import random_plan, randomise, relative_error
from torch import Tensor, nn
from torch.nn import functional

from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.base.errors import StructureError
from mvp_deploy.pruning.budget import units_kept
from mvp_deploy.structure import KeepPlan, Structure, analyze, gather, prune, silence
from mvp_deploy.structure.graph import TracedModel

MODELS: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (16, 24, 32, 48)},
    "mobilenetv2_035": {},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3},
}
FOUND = {
    "resnet18": {"layer1.1": "bn2", "layer2.1": "bn2", "layer3.1": "bn2", "layer4.1": "bn2"},
    "mobilenetv2_035": {
        f"blocks.{stage}.{block}": "bn3"
        for stage, blocks in enumerate((0, 2, 3, 4, 3, 3))
        for block in range(1, blocks)
    },
    "vit_tiny_patch16_224": {
        f"blocks.{block}.{part}": layer for block in range(2) for part, layer in (("attn", "proj"), ("mlp", "fc2"))
    },
}  # fmt: skip  # each block, and the layer within that gives its output


@cache
def built(name: str) -> tuple[nn.Module, Structure, Tensor]:
    torch.manual_seed(0)
    model = timm().create_model(name, num_classes=5, **MODELS[name]).eval()
    x = torch.randn(2, 3, *(MODELS[name].get("img_size", 64),) * 2)
    return randomise(model), analyze(model, x[:1]), x


def out(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def muted(model: nn.Module, name: str, blocks: list[str]) -> nn.Module:
    """The model with the weights of the layers that give these blocks' outputs at zero."""
    model = copy.deepcopy(model)
    for block in blocks:
        for value in model.get_submodule(f"{block}.{FOUND[name][block]}").parameters():
            nn.init.zeros_(value)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_found_and_what_is_left_is_the_model_whose_branches_are_muted(name: str) -> None:
    model, structure, x = built(name)
    assert {block.name for block in structure.blocks} == FOUND[name].keys()
    names = [block.name for block in structure.blocks]
    for some in (names[1:2], names[::2], names):
        plan = KeepPlan(KeepPlan.full(structure).masks, frozenset(some))
        small = prune(structure, model, plan)
        assert relative_error(out(small, x), out(muted(model, name, some), x)) < 1e-5
        assert small.state_dict().keys() == gather(structure, model.state_dict(), plan).keys()
        cost = structure.cost(plan)
        assert cost.params == sum(p.numel() for p in small.parameters())
        assert cost == analyze(small, x[:1]).cost()
    assert relative_error(out(small, x), out(model, x)) > 1e-2  # else the comparisons prove nothing


@pytest.mark.parametrize("name", MODELS)
def test_blocks_and_channels_go_together(name: str) -> None:
    model, structure, x = built(name)
    names = [block.name for block in structure.blocks]
    plan = KeepPlan(random_plan(structure, seed=1, least=0.4).masks, frozenset(names[1::2]))
    small = prune(structure, model, plan)
    assert relative_error(out(small, x), silence(structure, model, plan)(x)) < 1e-5
    assert structure.cost(plan).params == sum(p.numel() for p in small.parameters())
    small.train()
    out_of_training = small(x)
    out_of_training.sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_a_module_that_is_all_block_stays_eager_and_other_forwards_become_programs() -> None:
    for name, pick, kind in (
        ("resnet18", ["layer2.1"], nn.Module),
        ("vit_tiny_patch16_224", ["blocks.0.attn", "blocks.0.mlp"], nn.Module),
        ("vit_tiny_patch16_224", ["blocks.1.attn"], TracedModel),
    ):
        model, structure, _ = built(name)
        small = prune(structure, model, KeepPlan(KeepPlan.full(structure).masks, frozenset(pick)))
        assert isinstance(small, kind if kind is TracedModel else type(model))


class Forward(nn.Module):
    """One forward around a branch of two convolutions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)
        self.offset = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        y = self.second(functional.relu(self.first(x)))
        if self.kind == "in place":
            x += y
        elif self.kind == "the other way round, in place":
            y += x
            x = y
        elif self.kind == "read elsewhere":
            x = x + y
            return self.head(x), y.mean()
        elif self.kind == "another shortcut":
            x = self.head(x).repeat(1, 2, 1, 1) + y
        elif self.kind == "by keyword":
            x = torch.add(input=x, other=y)
        elif self.kind == "scaled":
            x = torch.add(x, y, alpha=2)
        elif self.kind == "changes the stream":
            x = x + self.second(x.relu_())
        elif self.kind == "an offset":
            x = x + self.offset
        elif self.kind == "multiplied":
            x = x * y
        return self.head(x)


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        ("in place", 1),
        ("the other way round, in place", 1),
        ("read elsewhere", 0),
        ("another shortcut", 0),
        ("by keyword", 0),
        ("scaled", 0),
        ("changes the stream", 0),
        ("an offset", 0),
        ("multiplied", 0),
    ],
)
def test_what_counts_as_a_block(kind: str, blocks: int) -> None:
    torch.manual_seed(0)
    model, x = Forward(kind).eval(), torch.randn(2, 3, 6, 6)
    structure = analyze(model, x)
    assert len(structure.blocks) == blocks
    if blocks:
        plan = KeepPlan(KeepPlan.full(structure).masks, frozenset({structure.blocks[0].name}))
        small = prune(structure, model, plan)
        assert relative_error(out(small, x), out(lambda x: model.head(model.stem(x)), x)) < 1e-6
        assert isinstance(small, TracedModel)
        again = analyze(small, x)
        assert not again.blocks  # it is gone
        assert small.state_dict().keys() == gather(structure, model.state_dict(), plan).keys()


def test_a_plan_without_a_block_goes_through_json_and_fits_its_own_structure_alone() -> None:
    model, structure, _ = built("resnet18")
    plan = KeepPlan(KeepPlan.full(structure).masks, frozenset({"layer1.1"}))
    assert KeepPlan.from_json(plan.to_json()) == plan != KeepPlan.full(structure)
    with pytest.raises(StructureError, match="another model: layer9 is not a block"):
        prune(structure, model, KeepPlan(plan.masks, frozenset({"layer9"})))


def test_a_group_inside_a_block_that_goes_costs_nothing() -> None:
    _, structure, _ = built("mobilenetv2_035")
    block = next(block for block in structure.blocks if block.name == "blocks.2.1")
    inside = next(g for g in structure.groups if all(m.tensor in block.tensors for m in g.members))
    full = KeepPlan.full(structure).masks
    fewer = {**full, inside.name: np.arange(inside.size) < 1}
    gone = frozenset({block.name})
    assert structure.cost(KeepPlan(full, gone)) == structure.cost(KeepPlan(fewer, gone))
    assert units_kept(structure, KeepPlan(full, gone)) == units_kept(structure, KeepPlan(fewer, gone)) < 1
