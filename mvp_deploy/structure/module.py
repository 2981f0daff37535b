"""The smaller model as the ordinary eager module: weights cut, and the sizes that its modules keep set."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure.axes import kept_size
from mvp_deploy.structure.blocks import removed, take_out
from mvp_deploy.structure.cut import cut_tensors
from mvp_deploy.structure.fakes import copy_with
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.rehearsal import rehearse
from mvp_deploy.structure.sizes import Attribute
from mvp_deploy.structure.solve import Unsolvable, solve
from mvp_deploy.structure.structure import Structure


def prune_module(structure: Structure, model: nn.Module, plan: KeepPlan) -> nn.Module:
    """A smaller copy of `model`.

    Raises:
        MvpError: its forward cannot run at the new sizes, or would do something else there.
    """
    masks = structure.tensor_masks(plan)
    sizes = _attribute_sizes(structure, plan)
    counts = {atom: int(mask.sum()) for atom, mask in structure.masks(plan).items()}
    blocks = removed(structure, plan)

    def resize(copied: nn.Module) -> None:
        _set_sizes(copied, sizes)
        take_out(copied, structure, blocks)

    rehearse(structure, model, masks, resize, counts, plan.without)
    small = copy_with(model, dict(cut_tensors(model, masks)))
    resize(small)
    return small


def _attribute_sizes(structure: Structure, plan: KeepPlan) -> dict[Attribute, int]:
    """The new value of every integer attribute that measures an axis."""
    counts = {atom: int(mask.sum()) for atom, mask in structure.masks(plan).items()}
    try:
        return solve(structure.observations, lambda axis: kept_size(axis, counts))
    except Unsolvable as error:
        raise StructureError(f"The smaller model cannot run: {error} would need two values at once.") from error


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
