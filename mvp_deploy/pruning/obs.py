"""What each unit of a model is worth to a task, in nats: the rise in loss when it goes and its readers make up for it.

The readers of a group are the linear layers with its units among their inputs; a unit is worth the sum over them. The
mathematics is in surgeon.py; here it meets a model. Inputs' moments do not depend on the task, sensitivities do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mvp_deploy.base.errors import InputError
from mvp_deploy.pruning import moments, surgeon
from mvp_deploy.pruning.linear import LinearCalls, LinearLayer, linear_layers
from mvp_deploy.pruning.moments import Moments
from mvp_deploy.pruning.surgeon import Reader
from mvp_deploy.structure import KeepPlan, Structure, UnitGroup
from mvp_deploy.structure.axes import axis_size

AT_ONCE = 16  # images whose gradients are worked out at once
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
            found = layer.results(gradient).float().square().sum(1)
            squares[layer.weight] = squares[layer.weight].to(found.device) + found

        y.register_hook(add)  # which must not know y: they would keep each other, and all before them

    seen = 0
    few = ((x, y) for xs, ys in batches for x, y in zip(xs.split(AT_ONCE), ys.split(AT_ONCE), strict=True))
    for x, y in few:
        x = x.detach().requires_grad_()
        with torch.enable_grad(), LinearCalls(model, layers, visit):
            loss = functional.cross_entropy(model(x.clone()).float(), y, reduction="sum")
        torch.autograd.grad(loss, x)  # by way of every layer, and by no weight
        seen += len(y)
    return {name: total.cpu() / max(seen, 1) for name, total in squares.items()}


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

    Raises:
        MvpError: a layer's weights, inputs or gradients are not finite; the sentence names it.
    """
    weights = dict(model.named_parameters())
    masks = structure.tensor_masks(plan)
    known = {
        name: _Known.of(structure, masks[name], layer, weights, inputs[name], outputs[name])
        for name, layer in layers.items()
    }
    result: dict[str, np.ndarray] = {}
    for group in structure.groups:
        kept = plan.masks[group.name]
        near = [known[name] for name in dict.fromkeys(member.tensor for member in group.members) if name in known]
        readers = [reader for layer in near if (reader := layer.reader(group, int(kept.sum())))]
        result[group.name] = np.zeros(group.size)
        if readers:
            result[group.name][kept] = surgeon.scores(readers)
        else:
            made = [worth for layer in near if (worth := layer.made(group)) is not None]
            result[group.name][kept] = np.sum(made, axis=0)[kept] if made else np.inf
    largest = max((float(v[np.isfinite(v)].max(initial=0)) for v in result.values()), default=0.0)
    return {name: np.where(np.isfinite(values), values, largest) for name, values in result.items()}


def obs(structure: Structure, model: nn.Module, plan: KeepPlan, sample: Batches, seed: int) -> dict[str, np.ndarray]:
    """The criterion: `scores` from a task's images, gradients from every second batch."""
    batches = list(sample)
    layers = {name: layer for name, layer in linear_layers(model, structure.example).items() if layer.groups == 1}
    images = sum(len(y) for _, y in batches)
    inputs = moments.collect(model, layers, batches, images, seed=seed)
    return scores(structure, model, plan, inputs, sensitivities(model, layers, batches[::2]), layers)


@dataclass(frozen=True, eq=False)
class _Known:
    """All that scores need to know of one layer.

    weight: float64 [outputs, columns]. bias: [outputs]. covariance, mean: of its inputs, over ``rows``. sensitivity:
    [outputs]. All on the model's device. masks: the outputs and inputs of the original that are left, None for all.
    full: the layer at its original size.
    """

    structure: Structure
    full: LinearLayer
    masks: Sequence[np.ndarray | None]
    weight: Tensor
    bias: Tensor
    covariance: Tensor
    mean: Tensor
    rows: float
    sensitivity: Tensor

    @classmethod
    def of(
        cls,
        structure: Structure,
        masks: Sequence[np.ndarray | None],
        layer: LinearLayer,
        weights: Mapping[str, Tensor],
        inputs: Moments,
        outputs: Tensor,
    ) -> _Known:
        shape = [axis_size(axis) for axis in structure.axes[layer.weight]]
        full = replace(layer, outputs=shape[0], columns=int(np.prod(shape[1:])))
        weight = layer.matrix(weights[layer.weight].detach())[0].double()
        bias = weights[layer.bias].detach().double() if layer.bias else weight.new_zeros(layer.outputs)
        products = inputs.products[0].to(weight)
        rows = max(float(products[-1, -1]), 1.0)
        products = products / rows
        mean = products[-1, :-1]
        covariance = products[:-1, :-1] - torch.outer(mean, mean)
        sensitivity = outputs[0].to(weight)
        if not all(values.isfinite().all() for values in (weight, bias, covariance, sensitivity)):
            raise InputError(
                f"{layer.weight.removesuffix('.weight')} has weights, inputs or gradients that are not finite, so its "
                "units cannot be scored: check the backbone's weights and the images for NaN and infinity."
            )
        return cls(structure, full, masks, weight, bias, covariance, mean, rows, sensitivity)

    def reader(self, group: UnitGroup, units: int) -> Reader | None:
        """What the layer does with the ``units`` of ``group`` that are left; None if it does not read them."""
        ids = self.full.input_units(self.structure, group)[0]
        if self.masks[1] is not None:
            ids = ids[np.repeat(self.masks[1], len(ids) // len(self.masks[1]))]
        columns = np.flatnonzero(ids >= 0)
        if not len(columns):
            return None
        by_unit = torch.from_numpy(columns[np.argsort(ids[columns], kind="stable")].reshape(units, -1))
        return Reader(self.weight, self.covariance, self.sensitivity, by_unit.to(self.weight.device), self.rows)

    def made(self, group: UnitGroup) -> np.ndarray | None:
        """What it costs if the units' outputs are nought, float64 [size]: sum_o F_o E[y_o^2] / 2; None for no maker."""
        ids = self.full.output_units(self.structure, group)[0]
        ids = ids if self.masks[0] is None else ids[self.masks[0]]
        if not (ids >= 0).any():
            return None
        outputs = self.weight @ self.mean + self.bias
        squares = outputs.square() + (self.weight @ self.covariance * self.weight).sum(1)
        worth = (self.sensitivity * squares / 2).cpu().numpy()
        return np.bincount(ids[ids >= 0], worth[ids >= 0], minlength=group.size)
