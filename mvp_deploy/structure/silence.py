"""The full model with removed units silenced: what a smaller model must equal.

Silenced means zero, and normalisations taken over the units that stay. The weights of removed units are zeroed
wherever they lie, and layer, group and RMS norms over an axis that loses units are computed over the rest of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mvp_deploy.structure.axes import Axis, keep_mask
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.surgery import gather, scatter
from mvp_deploy.structure.trace import named_tensors

if TYPE_CHECKING:
    from mvp_deploy.structure.analysis import Structure


def silence(structure: Structure, model: nn.Module, plan: KeepPlan) -> Callable[..., Any]:
    """A function like `model` in eval mode, full size, computing what the smaller model must compute."""
    state = {name: tensor.detach() for name, tensor in named_tensors(model)}
    silenced = scatter(structure, gather(structure, state, plan), plan)
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model):
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(silenced[name], requires_grad=False) if is_parameter else silenced[name]
    full = copy.deepcopy(model, memo).eval()

    def forward(*inputs: Tensor) -> Any:
        with torch.no_grad(), _MaskedNorms(structure, plan):
            return full(*inputs)

    return forward


class _MaskedNorms(TorchDispatchMode):
    """Takes the statistics of the i-th normalisation over the units that stay."""

    def __init__(self, structure: Structure, plan: KeepPlan) -> None:
        super().__init__()
        masks = structure.masks(plan)
        self.norms = iter([[_mask(axis, masks) for axis in axes] for axes in structure.norms])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        masks = next(self.norms) if name in _NORMS or name in _STATISTICS else []
        if all(mask.all() for mask in masks):
            return func(*args, **(kwargs or {}))
        if name in _NORMS:
            return _NORMS[name](masks, *args)
        x, dims, *rest = args
        for dim, mask in zip(sorted(d % x.ndim for d in dims), masks, strict=True):
            x = x.index_select(dim, mask.nonzero().flatten().to(x.device))
        return func(x, dims, *rest, **(kwargs or {}))


def _mask(axis: Axis, masks: dict[Any, Any]) -> Tensor:
    return torch.from_numpy(keep_mask(axis, masks))


def _layer_norm(masks: list[Tensor], x: Tensor, shape: list[int], weight: Any, bias: Any, eps: float) -> Any:
    keep = _outer(masks).to(x)
    dims = list(range(-len(shape), 0))
    count = keep.sum()
    mean = (x * keep).sum(dims, keepdim=True) / count
    var = ((x - mean).square() * keep).sum(dims, keepdim=True) / count
    return _affine((x - mean) * (var + eps).rsqrt() * keep, weight, bias), mean, (var + eps).rsqrt()


def _rms_norm(masks: list[Tensor], x: Tensor, shape: list[int], weight: Any, eps: float | None) -> Any:
    keep = _outer(masks).to(x)
    dims = list(range(-len(shape), 0))
    square = (x.square() * keep).sum(dims, keepdim=True) / keep.sum()
    scale = (square + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt()
    return _affine(x * scale * keep, weight, None), scale


def _group_norm(
    masks: list[Tensor], x: Tensor, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> Any:
    keep = _outer(masks).to(x)[None, :, :, None]
    grouped = x.reshape(n, groups, c // groups, hw)
    count = (keep.sum(2, keepdim=True) * hw).clamp(min=1)
    mean = (grouped * keep).sum((2, 3), keepdim=True) / count
    var = ((grouped - mean).square() * keep).sum((2, 3), keepdim=True) / count
    out = ((grouped - mean) * (var + eps).rsqrt() * keep).reshape(x.shape)
    channels = [1, c, *[1] * (x.ndim - 2)]
    shaped = (None if p is None else p.reshape(channels) for p in (weight, bias))
    return _affine(out, *shaped), mean.flatten(1), (var + eps).rsqrt().flatten(1)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _outer(masks: list[Tensor]) -> Tensor:
    keep = masks[0]
    for mask in masks[1:]:
        keep = keep.unsqueeze(-1) & mask
    return keep


_NORMS: dict[str, Callable[..., Any]] = {
    "aten::native_layer_norm": _layer_norm,
    "aten::_fused_rms_norm": _rms_norm,
    "aten::native_group_norm": _group_norm,
}
