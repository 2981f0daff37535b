"""Prices of units on models: what goes without harm is cheap, and prices tell the loss."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mvp_deploy.base.errors import MvpError
from mvp_deploy.pruning import moments
from mvp_deploy.pruning.budget import Budget, keep_best
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.pruning.linear import linear_layers
from mvp_deploy.pruning.obs import obs, scores, sensitivities
from mvp_deploy.structure import KeepPlan, analyze


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def batches(count: int = 4, shape: tuple[int, ...] = (3, 2, 2), classes: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(32, *shape, generator=generator), torch.randint(0, classes, (32,), generator=generator))
        for _ in range(count)
    ]


def test_sensitivities_are_the_mean_squared_gradients_of_single_images() -> None:
    model, sample = mlp(), batches(2)
    layers = linear_layers(model, (torch.zeros(2, 3, 2, 2),))
    got = sensitivities(model, layers, sample)
    total = torch.zeros(3)
    for x, y in ((x, y) for xs, ys in sample for x, y in zip(xs, ys, strict=True)):
        logits = model(x[None]).detach().requires_grad_()
        total += torch.autograd.grad(functional.cross_entropy(logits, y[None]), logits)[0][0].square()
    assert got["3.weight"][0] == pytest.approx(total / 64, rel=1e-4)


def test_a_convolutions_places_are_summed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 3)).eval()
    layers = linear_layers(model, (torch.zeros(2, 3, 2, 2),))
    sample = batches(1)
    got = sensitivities(model, layers, sample)["0.weight"][0]
    maps = model[0](sample[0][0]).detach().requires_grad_()
    loss = functional.cross_entropy(model[1:](maps), sample[0][1], reduction="sum")
    gradient = torch.autograd.grad(loss, maps)[0]
    assert got == pytest.approx(gradient.square().sum((0, 2, 3)) / 32, rel=1e-4)


def test_no_activation_outlives_what_it_was_needed_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    sample = [(torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1]))]
    layers, outputs = linear_layers(model, (sample[0][0][:1],)), []
    model[0].register_forward_hook(lambda _, __, y: outputs.append(weakref.ref(y)))
    sensitivities(model, layers, sample)
    gc.collect()
    assert outputs
    assert not any(output() is not None for output in outputs)


def test_a_dead_and_a_doubled_unit_go_first() -> None:
    model = mlp()
    with torch.no_grad():
        model[1].weight[5], model[1].bias[5] = 0, -1  # never on
        model[1].weight[9], model[1].bias[9] = model[1].weight[2], model[1].bias[2]
    structure = analyze(model, torch.zeros(2, 3, 2, 2))
    hidden = next(group for group in structure.groups if group.kind == "hidden")
    values = obs(structure, model, KeepPlan.full(structure), batches(200), 0)[hidden.name]
    first = np.argsort(values)[:2].tolist()
    assert 5 in first
    assert len(set(first) & {2, 9}) == 1  # one of the two, never both
    assert np.sort(values)[1] < 0.1 * np.sort(values)[2]


def test_the_price_is_the_rise_in_loss_of_a_net_that_makes_up_for_it() -> None:
    """To second order, with the mean squared gradient for a curvature."""
    model, sample = mlp(), batches(60)
    structure = analyze(model, torch.zeros(2, 3, 2, 2))
    layers = linear_layers(model, structure.example)
    inputs = moments.collect(model, layers, sample, 60 * 32)
    outputs = sensitivities(model, layers, sample)
    values = scores(structure, model, KeepPlan.full(structure), inputs, outputs, layers)
    name = next(group.name for group in structure.groups if group.kind == "hidden")
    with torch.no_grad():
        hidden = torch.relu(model[1](torch.cat([x for x, _ in sample]).flatten(1))).double()
        wanted = hidden @ model[3].weight.double().T
        stays = torch.arange(16) != int(np.argmin(values[name]))
        basis = torch.cat([hidden[:, stays], torch.ones(len(hidden), 1)], 1)
        left = wanted - basis @ torch.linalg.lstsq(basis, wanted).solution
    rise = float((left.square().mean(0) * outputs["3.weight"][0]).sum() / 2)
    assert values[name].min() == pytest.approx(rise, rel=0.05)


def test_it_scores_every_unit_that_is_left_and_no_other(both) -> None:
    original = both.original
    structure = original.structure
    first = score("obs", structure, original.copy(), original.full, both.train, batches=2, batch_size=32)
    assert all(np.isfinite(v).all() and (v >= 0).all() for v in first.values())
    plan = keep_best(structure, first, cheapest(structure, Budget(0.6, "macs"), first))
    again = score("obs", structure, original.pruned(plan), plan, both.train, batches=2, batch_size=32)
    for group in structure.groups:
        assert (again[group.name][~plan.masks[group.name]] == 0).all()
        if plan.kept(group.name) > 1 and group.kind in ("channel", "hidden", "head"):
            assert (again[group.name][plan.masks[group.name]] > 0).all()


def test_heads_are_units_of_the_projection(vit) -> None:
    original = vit.original
    structure = original.structure
    head = next(group for group in structure.groups if group.kind == "head")
    model = original.copy()
    with torch.no_grad():  # the first head's output is nought
        model.get_parameter("blocks.0.attn.proj.weight")[:, : 64 // head.size] = 0
    values = score("obs", structure, model, original.full, vit.train, batches=2, batch_size=32)[head.name]
    assert values.argmin() == 0
    assert values[0] < 1e-6 * values.max()


@pytest.mark.parametrize("spoilt", ["weight", "images"])
def test_what_is_not_finite_is_refused_by_name(spoilt: str) -> None:
    model, sample = mlp(), batches(1)
    with torch.no_grad():
        (model[3].weight if spoilt == "weight" else sample[0][0])[0, 0] = torch.nan
    structure = analyze(model, torch.zeros(2, 3, 2, 2))
    with pytest.raises(MvpError, match=r"[13] has weights, inputs or gradients that are not finite"):
        obs(structure, model, KeepPlan.full(structure), sample, 0)


@pytest.mark.parametrize("images", [0.0, 1.0])
def test_one_constant_image_gives_finite_scores(images: float) -> None:
    model = mlp()
    structure = analyze(model, torch.zeros(2, 3, 2, 2))
    sample = [(torch.full((1, 3, 2, 2), images), torch.zeros(1, dtype=torch.int64))]
    values = obs(structure, model, KeepPlan.full(structure), sample, 0)
    assert all(np.isfinite(v).all() and (v >= 0).all() for v in values.values())
    assert cheapest(structure, Budget(0.5, "macs", 1), values)
