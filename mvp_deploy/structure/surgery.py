"""Making the smaller model a keep plan describes: weights cut out, not zeroed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import BaseTorchFunctionMode

from mvp_deploy.base.errors import DeployError
from mvp_deploy.structure.axes import kept_size
from mvp_deploy.structure.collector import collector_paused
from mvp_deploy.structure.fakes import QuickOperators, copy_with, fake_copy, fake_inputs, named_tensors
from mvp_deploy.structure.graph import TracedModel, assemble, set_constants
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.sizes import Attribute
from mvp_deploy.structure.solve import Unsolvable, solve
from mvp_deploy.structure.trace import module_paths

if TYPE_CHECKING:
    from mvp_deploy.structure.structure import Structure


Masks = Any  # of one tensor: per dimension the boolean mask of the positions that stay, None for all


def gather(structure: Structure, state: Mapping[str, Tensor], plan: KeepPlan) -> dict[str, Tensor]:
    """The smaller model's state dict, cut out of a full-size one; tensors unknown to the structure pass."""
    masks = structure.tensor_masks(plan)
    return {name: _cut(tensor, masks.get(name, ())) for name, tensor in state.items()}


def scatter(structure: Structure, state: Mapping[str, Tensor], plan: KeepPlan) -> dict[str, Tensor]:
    """A full-size state dict with the smaller model's weights at their units' places, zeros elsewhere."""
    masks = structure.tensor_masks(plan)
    out = {}
    for name, tensor in state.items():
        for dim, mask in enumerate(masks.get(name, ())):
            if mask is not None:
                shape = [*tensor.shape[:dim], len(mask), *tensor.shape[dim + 1 :]]
                full = tensor.new_zeros(shape)
                tensor = full.index_copy(dim, _places(mask, tensor.device), tensor)
        out[name] = tensor
    return out


@collector_paused()
def prune(structure: Structure, model: nn.Module, plan: KeepPlan) -> nn.Module:
    """A new, smaller model without the units that `plan` removes; `model` is untouched.

    It is the ordinary eager module, with the sizes its modules keep set, wherever their forward can run so; else a
    `TracedModel`. Either trains and saves, under the same parameter names. Nothing is cut before a run on fake
    tensors has shown that the smaller model's forward works.

    Raises:
        DeployError: the plan is for another model, or it cannot run smaller in either form (the module is named).
    """
    structure.check(plan)
    if isinstance(model, TracedModel):
        return _prune_program(structure, model, plan, model.why)
    try:
        return _prune_as_it_is(structure, model, plan)
    except DeployError as eager:
        try:
            return _prune_program(structure, model, plan, str(eager))
        except DeployError as traced:
            raise DeployError(f"{eager} And as a traced program: {traced}") from traced


def _prune_as_it_is(structure: Structure, model: nn.Module, plan: KeepPlan) -> nn.Module:
    masks = structure.tensor_masks(plan)
    sizes = _attribute_sizes(structure, plan)
    _rehearse(structure, model, masks, sizes)
    small = copy_with(model, dict(_cut_tensors(model, masks)))
    _set_sizes(small, sizes)
    return small


def _cut_tensors(model: nn.Module, masks: Mapping[str, Masks]) -> Iterator[tuple[int, Tensor]]:
    """The smaller copy of every parameter and buffer, by the id of the full one."""
    for name, tensor in named_tensors(model):
        cut = _cut(tensor.detach(), masks.get(name, ()))
        cut = cut.clone() if cut.data_ptr() == tensor.data_ptr() else cut
        yield id(tensor), nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut


def _prune_program(structure: Structure, model: nn.Module, plan: KeepPlan, why: str) -> nn.Module:
    from mvp_deploy.structure.analysis import record  # a structure can prune, and pruning a program makes one

    recorded, recorder, batch = record(model, structure.example, allow_inexact=structure.allow_inexact)
    plan = _translate(structure, recorded, plan)
    counts = {atom: int(mask.sum()) for atom, mask in recorded.masks(plan).items()}
    set_constants(recorder.graph, recorder.constants, lambda axis, n: kept_size(axis, counts | {batch: n}))
    cut = dict(_cut_tensors(model, recorded.tensor_masks(plan)))
    state = {
        name: cut[id(tensor)]
        for name, tensor in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
    }
    not_saved = {
        f"{path}.{name}".strip(".") for path, m in model.named_modules() for name in m._non_persistent_buffers_set
    }
    program = assemble(recorder.graph, state | recorder.tensors, not_saved | recorder.tensors.keys())
    program.why = why
    _rehearse(structure, program, {}, {})
    return program.train(model.training)


def _translate(structure: Structure, other: Structure, plan: KeepPlan) -> KeepPlan:
    """`plan` in terms of the groups of another structure of the same tensors."""
    wanted = structure.tensor_masks(plan)
    masks = {group.name: other.unit_mask(group, wanted) for group in other.groups}
    translated = KeepPlan(masks)
    got = other.tensor_masks(translated)
    for name, dims in wanted.items():
        for mask, own in zip(dims, got.get(name, dims), strict=True):
            if not np.array_equal(mask, own):  # type: ignore[arg-type]  # None equals None
                raise DeployError(f"the units of {name} are tied otherwise than in the model.")
    return translated


def _cut(tensor: Tensor, masks: Any) -> Tensor:
    for dim, mask in enumerate(masks):
        if mask is not None:
            tensor = tensor.index_select(dim, _places(mask, tensor.device))
    return tensor


def _places(mask: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask)).to(device)


def _attribute_sizes(structure: Structure, plan: KeepPlan) -> dict[Attribute, int]:
    """The new value of every integer attribute that measures an axis."""
    counts = {atom: int(mask.sum()) for atom, mask in structure.masks(plan).items()}
    try:
        return solve(structure.observations, lambda axis: kept_size(axis, counts))
    except Unsolvable as error:
        raise DeployError(f"The smaller model cannot run: {error} would need two values at once.") from error


def _rehearse(structure: Structure, model: nn.Module, masks: Mapping[str, Masks], sizes: dict[Attribute, int]) -> None:
    """Run the smaller model on fake tensors, so that what cannot work is refused by name before anything is cut."""

    def shape(name: str, tensor: Tensor) -> list[int]:
        own = masks.get(name, [None] * tensor.ndim)
        return [n if mask is None else int(mask.sum()) for n, mask in zip(tensor.shape, own, strict=True)]

    module = ""

    def enter(path: str) -> None:
        nonlocal module
        module = path

    # tensors on the meta device are the quicker fakes, but few models mind where a tensor lies and need the others
    for mode in (None, FakeTensorMode(allow_non_fake_inputs=True)):
        fake = fake_copy(model, mode, shape)
        _set_sizes(fake, sizes)
        try:
            # under a function mode torch.nn.TransformerEncoderLayer takes no fast path, which checks no shapes
            with (
                torch.no_grad(),
                mode or nullcontext(),
                QuickOperators(),
                BaseTorchFunctionMode(),
                module_paths(fake, enter),
            ):
                fake(*fake_inputs(structure.example, fake, mode))
            return
        except Exception as error:
            if mode is not None:
                raise DeployError(
                    f"The smaller model cannot run: {module or 'the model'} "
                    f"({type(fake.get_submodule(module)).__name__}) fails at its new size: {error}"
                ) from error


def _set_sizes(model: nn.Module, sizes: Mapping[Attribute, int]) -> None:
    """Set attributes in place, and what torch.nn's own layers print of their weights' shapes."""
    for attribute, size in sizes.items():
        module = model.get_submodule(attribute.module)
        if attribute.index is None:
            setattr(module, attribute.name, size)
        else:
            old = getattr(module, attribute.name)
            setattr(module, attribute.name, type(old)(size if i == attribute.index else v for i, v in enumerate(old)))
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.conv._ConvNd):
            outs, ins = (1, 0) if module.transposed else (0, 1)
            module.out_channels = weight.shape[outs] * (module.groups if module.transposed else 1)
            module.in_channels = weight.shape[ins] * (1 if module.transposed else module.groups)
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_features = len(weight)
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = len(weight)
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(weight.shape)
