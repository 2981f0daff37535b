from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mvp_deploy.base.errors import MvpError
from mvp_deploy.pruning.budget import Budget, counts_for, keep_best, uniform
from mvp_deploy.pruning.importance import CRITERIA, score, taylor
from mvp_deploy.structure import KeepPlan, prune


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_unit_gets_a_score_and_the_same_one_again(both, criterion: str) -> None:
    original = both.original
    first, second = (
        score(criterion, original.structure, original.model, original.full, both.train, batches=2, seed=3)
        for _ in range(2)
    )
    for group in original.structure.groups:
        assert first[group.name].shape == (group.size,)
        assert first[group.name].dtype == np.float64
        assert np.isfinite(first[group.name]).all()
        assert first[group.name].max() > 0
        assert np.array_equal(first[group.name], second[group.name])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_pruned_model_is_scored_on_the_original_units(both, criterion: str) -> None:
    original, structure = both.original, both.original.structure
    plan = keep_best(structure, {}, counts_for(structure, Budget(0.5, "units"), uniform(structure)), seed=5)
    scores = score(criterion, structure, original.pruned(plan), plan, both.train, batches=2)
    for name, mask in plan.masks.items():
        assert (scores[name][~mask] == 0).all()
        assert (scores[name][mask] > 0).any()


def test_taylor_is_the_squared_sum_of_weight_times_gradient(cnn) -> None:
    """Against a gate: the gradient at 1 of a factor on a member's slice is that slice's sum of weight x gradient."""
    original = cnn.original
    group = next(g for g in original.structure.groups if g.name == "layer4.0.conv1")
    x, y = next(iter(cnn.train.batches(64, shuffle=True, generator=torch.Generator().manual_seed(0))))
    parameters = dict(original.model.named_parameters())
    expected = np.zeros(group.size)
    for member in group.members:
        if member.tensor not in parameters:
            continue
        gate = torch.ones(group.size, requires_grad=True)
        shape = [group.size if d == member.dim else 1 for d in range(parameters[member.tensor].ndim)]
        gated = parameters | {member.tensor: parameters[member.tensor] * gate.reshape(shape)}
        loss = functional.cross_entropy(torch.func.functional_call(original.model, gated, (x,)), y)
        expected += torch.autograd.grad(loss, gate)[0].double().numpy() ** 2
    got = score("taylor", original.structure, original.model, original.full, cnn.train, batches=1, seed=0)
    np.testing.assert_allclose(got[group.name], expected, rtol=1e-3)


@pytest.mark.parametrize("criterion", ["taylor", "activation", "magnitude"])
def test_a_dead_neuron_does_not_matter(vit, criterion: str) -> None:
    model = copy.deepcopy(vit.original.model)
    block = model.get_submodule("blocks.2.mlp")
    with torch.no_grad():
        for tensor in (block.fc1.weight[7], block.fc1.bias[7:8], block.fc2.weight[:, 7]):
            tensor.zero_()
    scores = score(criterion, vit.original.structure, model, vit.original.full, vit.train, batches=2)
    values = scores["blocks.2.mlp.fc1"]
    assert values[7] == 0
    assert (np.delete(values, 7) > 0).all()


def test_taylor_ranks_units_as_the_loss_without_each_does(cnn) -> None:
    """On units whose effects differ a thousandfold, far from the loss's minimum, in float64: no rank is rounding's."""
    original, structure, group = cnn.original, cnn.original.structure, "layer1.0.conv1"
    model = original.copy().double().eval()
    norm = model.get_submodule("layer1.0.bn1")
    effects = torch.from_numpy(np.random.default_rng(0).permutation(np.geomspace(1e-3, 1, 32)))
    with torch.no_grad():
        norm.weight.mul_(effects)
        norm.bias.mul_(effects)
    x, y = next(cnn.train.batches(64, shuffle=True, generator=torch.Generator().manual_seed(0)))
    x = x.double()

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(model(x), y))

    def without(unit: int) -> nn.Module:
        masks = {name: mask.copy() for name, mask in original.full.masks.items()}
        masks[group][unit] = False
        return prune(structure, model, KeepPlan(masks)).eval()

    whole = loss(model)
    changes = np.array([abs(loss(without(unit)) - whole) for unit in range(32)])
    scores = taylor(structure, model, original.full, [(x, y)], seed=0)[group]
    assert np.sum(changes > 1e-9) > 28  # what float64 leaves of a loss near 1 is 1e-15
    ranks = [np.argsort(np.argsort(values)) for values in (scores, changes)]
    assert np.corrcoef(*ranks)[0, 1] > 0.85  # about 0.98; of activations 0.65, of magnitudes and of a draw about 0


def test_scoring_leaves_the_model_as_it_was(cnn) -> None:
    model = cnn.original.copy().train()
    before = copy.deepcopy(model.state_dict())
    score("taylor", cnn.original.structure, model, cnn.original.full, cnn.train, batches=2)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_unknown_criterion_is_refused(cnn) -> None:
    with pytest.raises(MvpError, match="taylor, activation, magnitude, random"):
        score("gut feeling", cnn.original.structure, cnn.original.model, cnn.original.full, cnn.train)
