"""timm's models, small: for random keep plans the smaller model is the full one silenced, trains, saves, adds up."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import random_plan, randomise, relative_error, silenced
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.structure import KeepPlan, Structure, analyze, gather, prune, scatter, silence

SMALL_VIT = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3}
MODELS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnet50": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 48)},
    "mobilenetv2_035": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "convnext_atto": {"depths": (1, 1, 2, 1)},
    "densenet121": {"block_config": (2, 2, 3, 2), "growth_rate": 8},
    "regnety_002": {},
    "vit_tiny_patch16_224": SMALL_VIT,
    "deit_tiny_distilled_patch16_224": SMALL_VIT,
    "swin_tiny_patch4_window7_224": {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
}
SMALLEST = ("mobilenetv3_small_050", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")

each_model = pytest.mark.parametrize("name", MODELS)
some_models = pytest.mark.parametrize("name", SMALLEST)


@cache
def built(name: str) -> tuple[nn.Module, Structure, Tensor]:
    torch.manual_seed(0)
    model = timm().create_model(name, num_classes=7, **MODELS[name]).eval()
    x = torch.randn(2, 3, *(MODELS[name].get("img_size", 64),) * 2)
    return randomise(model), analyze(model, x[:1]), x


def outputs(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return model(x)


@each_model
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31), least=st.floats(0.05, 0.7))
def test_the_smaller_model_is_the_silenced_one(name: str, seed: int, least: float) -> None:
    model, structure, x = built(name)
    plan = random_plan(structure, seed, least, least + 0.25)
    small = prune(structure, model, plan)
    got, full = outputs(small, x), outputs(model, x)
    assert type(small) is type(model)
    assert relative_error(got, outputs(silenced(model, structure.tensor_masks(plan), x), x)) < 1e-5
    assert relative_error(got, silence(structure, model, plan)(x)) < 1e-5
    assert relative_error(got, full) > 1e-3  # else the comparisons prove nothing
    assert structure.cost(plan).params == sum(p.numel() for p in small.parameters())


@each_model
def test_every_weight_but_the_first_and_last_dimension_can_shrink(name: str) -> None:
    _, structure, _ = built(name)
    assert structure.frozen_share < 1e-3  # the classifier's bias
    assert not structure.unknown


@some_models
def test_cost_is_what_analysing_the_smaller_model_again_gives(name: str) -> None:
    model, structure, x = built(name)
    plan = random_plan(structure, seed=3)
    assert structure.cost(plan) == analyze(prune(structure, model, plan), x[:1]).cost()
    assert structure.cost(KeepPlan.full(structure)) == structure.cost()


@some_models
def test_the_smaller_model_trains(name: str) -> None:
    model, structure, x = built(name)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    small = prune(structure, model, random_plan(structure, seed=4)).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        out = small(x)
        loss = sum(o.square().mean() for o in (out if isinstance(out, tuple) else (out,)))
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())
    assert all(p.isfinite().all() for p in small.parameters())
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items()), "the original is left alone"


@some_models
def test_saved_weights_reload_into_a_fresh_cut_to_the_bit(name: str, tmp_path: Path) -> None:
    model, structure, x = built(name)
    plan = random_plan(structure, seed=5)
    small = prune(structure, model, plan)
    save_model(small, str(tmp_path / "small.safetensors"))
    other = timm().create_model(name, num_classes=7, **MODELS[name]).eval()
    fresh = prune(structure, other, plan)
    load_model(fresh, str(tmp_path / "small.safetensors"))
    assert torch.equal(outputs(fresh, x), outputs(small, x))


@some_models
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31))
def test_scatter_undoes_gather_on_kept_units_and_is_zero_elsewhere(name: str, seed: int) -> None:
    model, structure, _ = built(name)
    plan = random_plan(structure, seed)
    state = {n: t + 1.5 if t.is_floating_point() else t for n, t in model.state_dict().items()}
    small = gather(structure, state, plan)
    back = scatter(structure, small, plan)
    masks = structure.tensor_masks(plan)
    assert {n: t.shape for n, t in small.items()} == {
        n: t.shape for n, t in prune(structure, model, plan).state_dict().items()
    }
    for n, tensor in state.items():
        keep = torch.ones(())
        for size, mask in zip(tensor.shape, masks.get(n, [None] * tensor.ndim), strict=True):
            keep = keep.unsqueeze(-1) * torch.from_numpy(np.ones(size) if mask is None else mask.astype(float))
        assert torch.equal(back[n], torch.where(keep.bool(), tensor, 0).to(tensor.dtype))


@some_models
def test_removing_one_unit_changes_only_its_group(name: str) -> None:
    _, structure, _ = built(name)
    for group in structure.groups:
        masks = dict(KeepPlan.full(structure).masks)
        masks[group.name] = np.arange(group.size) != group.size // 2
        touched = {
            (tensor, dim)
            for tensor, dims in structure.tensor_masks(KeepPlan(masks)).items()
            for dim, mask in enumerate(dims)
            if mask is not None
        }
        assert touched == {(member.tensor, member.dim) for member in group.members}


@some_models
def test_values_per_unit_add_up_to_those_of_the_members(name: str) -> None:
    model, structure, _ = built(name)
    values = {n: p.detach().abs() for n, p in model.named_parameters()}
    per_unit = structure.per_unit(values)
    whole = KeepPlan.full(structure)
    for group in structure.groups:
        masks = dict(whole.masks) | {group.name: np.arange(group.size) > 0}
        cut = structure.tensor_masks(KeepPlan(masks))
        parameters = [member for member in group.members if member.tensor in values]
        for row, member in zip(per_unit[group.name], parameters, strict=True):
            gone = torch.from_numpy(~cut[member.tensor][member.dim])  # type: ignore[operator]
            first = values[member.tensor].double().movedim(member.dim, 0)[gone].sum()
            torch.testing.assert_close(row[0], first)


def test_half_of_a_model_survives_bfloat16_and_channels_last() -> None:
    model, structure, x = built("mobilenetv3_small_050")
    small = prune(structure, model, random_plan(structure, seed=6))
    wanted = outputs(small, x)
    moved = small.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    got = outputs(moved, x.to(dtype=torch.bfloat16, memory_format=torch.channels_last))
    assert relative_error(got.float(), wanted) < 0.1
    plan = random_plan(structure, seed=7)
    again = prune(structure, model.to(memory_format=torch.channels_last), plan)
    assert relative_error(outputs(again, x), silence(structure, model, plan)(x)) < 1e-5
    model.to(memory_format=torch.contiguous_format)
