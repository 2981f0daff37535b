"""How important each unit is to a task, by one of five criteria; always on the original backbone's units.

A model already pruned is scored through its keep plan: what is measured on its weights is scattered back to
full size first, so removed units score 0 and the others keep their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mvp_deploy.base.devices import full_float32
from mvp_deploy.base.errors import InputError, StructureError
from mvp_deploy.pruning.obs import obs
from mvp_deploy.structure import KeepPlan, Structure, scatter
from mvp_deploy.tasks import Images

AT_ONCE = 16  # images that gradients are worked out for at once: what they hold of each is the most of the memory
Batches = Iterable[tuple[Tensor, Tensor]]  # normalised images float32 [b, 3, H, W], labels int64 [b]
Criterion = Callable[..., dict[str, np.ndarray]]


@full_float32()
def score(
    criterion: str,
    structure: Structure,
    model: nn.Module,
    plan: KeepPlan,
    images: Images,
    *,
    batches: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Importance of every unit, as group name -> float64 [size], 0 for units ``plan`` has removed.

    model: the eager model that ``plan`` describes, with its head. images: of the task, of which ``batches``
    random batches are used. Raises MvpError for an unknown criterion, or weights that are not finite.
    """
    if criterion not in CRITERIA:
        raise InputError(f"There is no importance criterion '{criterion}'. Choose from: {', '.join(CRITERIA)}.")
    require_numbers(model)
    sample = images.sample(batch_size, batches, seed)
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            return CRITERIA[criterion](structure, model, plan, sample, seed)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise StructureError(
            f"{type(model).__name__} cannot be scored by '{criterion}' ({str(error).rstrip('.')}): "
            "choose the criterion magnitude, which takes no gradients."
        ) from error
    finally:
        model.train(was_training)


def require_numbers(model: nn.Module) -> None:
    """Refuse weights that are not finite, and buffers with NaN in them (a mask may be infinite), by name."""
    weights = {name: value.isfinite() for name, value in model.named_parameters()}
    buffers = {name: ~value.isnan() for name, value in model.named_buffers()}
    for name, right in (weights | buffers).items():
        if not bool(right.all()):
            raise InputError(f"The weights {name} hold NaN or infinity: restore them from a good copy.")


def taylor(structure: Structure, model: nn.Module, plan: KeepPlan, sample: Batches, seed: int) -> dict[str, np.ndarray]:
    """First-order Taylor importance: mean over batches of sum over members of (sum of weight x gradient) squared.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771), the joint
    contribution of a set of weights; a unit's sets are its slices in every parameter it runs through.
    """
    weights = dict(model.named_parameters())
    total: dict[str, Tensor] = {}
    count = 0
    for x, y in sample:
        values: dict[str, Tensor] = {}
        for few, theirs in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True):
            loss = functional.cross_entropy(model(few), theirs, reduction="sum") / len(y)
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:
                    values[name] = values.get(name, 0) + weight.detach() * gradient
        for group, rows in _per_unit(structure, plan, values).items():
            total[group] = total.get(group, 0) + rows.square().sum(0)
        count += 1
    return _arrays(structure, {group: value / count for group, value in total.items()})


def magnitude(
    structure: Structure, model: nn.Module, plan: KeepPlan, sample: Batches, seed: int
) -> dict[str, np.ndarray]:
    """The L2 norm of all the weights that belong to a unit (Li et al. 2017, arXiv 1608.08710, with L2 for L1)."""
    values = {name: weight.detach().square() for name, weight in model.named_parameters()}
    return _arrays(structure, {g: rows.sum(0).sqrt() for g, rows in _per_unit(structure, plan, values).items()})


def activation(
    structure: Structure, model: nn.Module, plan: KeepPlan, sample: Batches, seed: int
) -> dict[str, np.ndarray]:
    """Mean absolute output of the layers that produce a unit (Molchanov et al. 2017's activation criterion).

    Measured on convolutions, linear layers and normalisations whose output rows the unit owns, each layer's
    values divided by their mean so that a residual stream's producers count the same. A group no such layer
    produces (its weights are used through a function, as in BEiT's attention) is scored by magnitude.
    """
    sums: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(_record(f"{name}.weight" if name else "weight", _output_axis(module), sums))
        for name, module in model.named_modules()
        if _output_axis(module) is not None
    ]
    try:
        with torch.no_grad():
            for x, _ in sample:
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    values = {
        name: (value / value.mean().clamp_min(1e-30) / shapes[name][1:].numel())
        .reshape(-1, *[1] * (len(shapes[name]) - 1))
        .expand(shapes[name])
        for name, value in sums.items()
        if name in shapes and shapes[name][0] == len(value)
    }
    result = magnitude(structure, model, plan, sample, seed)
    rows = _per_unit(structure, plan, values)
    for group in structure.groups:
        measured = [member for member in group.members if member.tensor in values]
        produced = [i for i, member in enumerate(measured) if member.dim == 0]
        if produced:
            result[group.name] = rows[group.name][produced].mean(0).cpu().numpy()
    return result


def draw(structure: Structure, model: nn.Module, plan: KeepPlan, sample: Batches, seed: int) -> dict[str, np.ndarray]:
    """A seeded draw: the control every criterion has to beat."""
    rng = np.random.default_rng(seed)
    return {group.name: rng.random(group.size) * plan.masks[group.name] for group in structure.groups}


CRITERIA: Mapping[str, Criterion] = {
    "taylor": taylor,
    "activation": activation,
    "magnitude": magnitude,
    "random": draw,
    "obs": obs,
}


def _per_unit(structure: Structure, plan: KeepPlan, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return structure.per_unit(scatter(structure, values, plan))


def _arrays(structure: Structure, values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        group.name: values[group.name].double().cpu().numpy() if group.name in values else np.zeros(group.size)
        for group in structure.groups
    }


def _output_axis(module: nn.Module) -> int | None:
    """Which axis of the module's output runs along its weight's rows; None if it has no such axis."""
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
        return -1
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
        return 1
    return None


def _record(name: str, axis: int | None, sums: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        last = output.detach().abs().movedim(axis if axis is not None else -1, -1)
        sums[name] = sums.get(name, 0) + last.reshape(-1, last.shape[-1]).double().mean(0)

    return hook
