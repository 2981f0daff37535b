"""What each unit of a model is worth to a task, in nats: the rise in loss when it goes and its readers make up for it.

The readers of a group are the linear layers with its units among their inputs; a unit is worth the sum over them. The
mathematics is in surgeon.py; here it meets a model. Inputs' moments do not depend on the task, sensitivities do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mvp_deploy.pruning import moments, surgeon
from mvp_deploy.pruning.linear import LinearCalls, LinearLayer, linear_layers
from mvp_deploy.pruning.moments import Moments
from mvp_deploy.pruning.surgeon import Reader
from mvp_deploy.structure import KeepPlan, Structure, UnitGroup
from mvp_deploy.structure.axes import axis_size

Batches = Iterable[tuple[Tensor, Tensor]]  # normalised images float32 [b, 3, H, W], labels int64 [b]


def sensitivities(model: nn.Module, layers: Mapping[str, LinearLayer], batches: Batches) -> dict[str, Tensor]:
    """The mean over images of the squared gradients of the cross-entropy by each layer's outputs, summed over places.

    The diagonal of K-FAC's second factor (Martens and Grosse 2015, arXiv 1503.05671), with the labels as they are.

    Returns:
        By the weight's name, float32 [groups, out/groups].
    """
    squares = {name: torch.zeros(layer.groups, layer.outputs // layer.groups) for name, layer in layers.items()}

    def visit(layer: LinearLayer, x: Tensor, y: Tensor) -> None:
        def add(gradient: Tensor) -> None:
            squares[layer.weight] += layer.results(gradient).float().square().sum(1).cpu()

        y.register_hook(add)

    seen = 0
    for x, y in batches:
        x = x.detach().requires_grad_()
        with torch.enable_grad(), LinearCalls(model, layers, visit):
            loss = functional.cross_entropy(model(x.clone()).float(), y, reduction="sum")
        torch.autograd.grad(loss, x)  # by way of every layer, and by no weight
        seen += len(y)
    return {name: total / max(seen, 1) for name, total in squares.items()}


def scores(
    structure: Structure,
    model: nn.Module,
    plan: KeepPlan,
    inputs: Mapping[str, Moments],
    outputs: Mapping[str, Tensor],
    layers: Mapping[str, LinearLayer],
) -> dict[str, np.ndarray]:
    """The rise in loss that each unit's removal brings after all cheaper ones of its group.

    Args:
        model: the eager model that ``plan`` describes, in eval mode.
        layers: its linear layers, but for convolutions in groups, in which units go together with what reads them.
        inputs, outputs: of the layers, from `moments.collect` and `sensitivities`.

    Returns:
        Group name -> float64 [size], 0 for units that ``plan`` has removed. A group that no linear layer reads is
        scored by what its makers' outputs are worth with nothing to make up for them; one that no linear layer makes
        either goes last.
    """
    weights = dict(model.named_parameters())
    result: dict[str, np.ndarray] = {}
    for group in structure.groups:
        kept = np.flatnonzero(plan.masks[group.name])
        readers = [
            reader
            for name, layer in layers.items()
            if (reader := _reader(structure, plan, layer, weights[name], inputs[name], outputs[name], group, kept))
        ]
        values = surgeon.scores(readers) if readers else _made(structure, plan, layers, weights, inputs, outputs, group)
        result[group.name] = np.zeros(group.size)
        result[group.name][kept] = values
    largest = max((float(v[np.isfinite(v)].max(initial=0)) for v in result.values()), default=0.0)
    return {name: np.where(np.isfinite(values), values, largest) for name, values in result.items()}


def obs(structure: Structure, model: nn.Module, plan: KeepPlan, sample: Batches, seed: int) -> dict[str, np.ndarray]:
    """The criterion: `scores` from a task's images, gradients from every second batch."""
    batches = list(sample)
    layers = {name: layer for name, layer in linear_layers(model, structure.example).items() if layer.groups == 1}
    images = sum(len(y) for _, y in batches)
    inputs = moments.collect(model, layers, batches, images, seed=seed)
    return scores(structure, model, plan, inputs, sensitivities(model, layers, batches[::2]), layers)


def _reader(
    structure: Structure,
    plan: KeepPlan,
    layer: LinearLayer,
    weight: Tensor,
    inputs: Moments,
    outputs: Tensor,
    group: UnitGroup,
    kept: np.ndarray,
) -> Reader | None:
    """What the layer does with the units of ``group`` that are left; None if it does not read them."""
    units = _over_columns(structure, plan, layer, group)
    columns = np.flatnonzero(units >= 0)
    if not len(columns):
        return None
    by_unit = columns[np.argsort(units[columns], kind="stable")].reshape(len(kept), -1)
    products = inputs.products[0].double().cpu().numpy()
    products /= max(products[-1, -1], 1.0)
    mean = products[-1, :-1]
    return Reader(
        layer.matrix(weight.detach())[0].double().cpu().numpy(),
        products[:-1, :-1] - np.outer(mean, mean),
        outputs[0].double().numpy(),
        by_unit,
    )


def _over_columns(structure: Structure, plan: KeepPlan, layer: LinearLayer, group: UnitGroup) -> np.ndarray:
    """For each column of the smaller layer, the unit of ``group`` (of the original's) that it reads, or -1."""
    shape = [axis_size(axis) for axis in structure.axes[layer.weight]]
    full = replace(layer, outputs=shape[0], columns=int(np.prod(shape[1:])))
    units = full.input_units(structure, group)[0]
    mask = structure.tensor_masks(plan)[layer.weight][1]
    return units if mask is None else units[np.repeat(mask, full.columns // shape[1])]


def _made(
    structure: Structure,
    plan: KeepPlan,
    layers: Mapping[str, LinearLayer],
    weights: Mapping[str, Tensor],
    inputs: Mapping[str, Moments],
    outputs: Mapping[str, Tensor],
    group: UnitGroup,
) -> np.ndarray:
    """What it costs if the units' outputs are nought: sum_o F_o E[y_o^2] / 2, float64 [units kept]."""
    total = np.full(group.size, np.inf)
    for name, layer in layers.items():
        mask = structure.tensor_masks(plan)[name][0]
        shape = [axis_size(axis) for axis in structure.axes[name]]
        units = replace(layer, outputs=shape[0]).output_units(structure, group)[0]
        units = units if mask is None else units[mask]
        if not (units >= 0).any():
            continue
        matrix = layer.matrix(weights[name].detach())[0].double().cpu()
        bias = weights[layer.bias].detach().double().cpu() if layer.bias else torch.zeros(layer.outputs).double()
        rows = torch.cat([matrix, bias[:, None]], 1)
        products = inputs[name].products[0].double().cpu()
        squares = (rows @ products * rows).sum(1) / products[-1, -1].clamp_min(1)
        worth = (outputs[name][0].double() * squares).numpy() / 2
        inside = units >= 0
        total = np.where(np.isfinite(total), total, 0.0)
        np.add.at(total, units[inside], worth[inside])
    return total[plan.masks[group.name]]
