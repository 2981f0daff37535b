"""The full model with removed units silenced: what a smaller model must equal.

Silenced means zero, and normalisations taken over the units that stay. The weights of removed units are zeroed
wherever they lie, and layer, group and RMS norms over an axis that loses units are computed over the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mvp_deploy.structure.axes import keep_mask
from mvp_deploy.structure.fakes import copy_with, named_tensors
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.surgery import gather, scatter

if TYPE_CHECKING:
    from mvp_deploy.structure.structure import Structure


def silence(structure: Structure, model: nn.Module, plan: KeepPlan) -> Callable[..., Any]:
    """A function like `model` in eval mode, full size, computing what the smaller model must compute."""
    state = {name: tensor.detach() for name, tensor in named_tensors(model)}
    silenced = scatter(structure, gather(structure, state, plan), plan)
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model):
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(silenced[name], requires_grad=False) if is_parameter else silenced[name]
    full = copy_with(model, memo).eval()

    def forward(*inputs: Tensor) -> Any:
        # a function mode keeps torch.nn.TransformerEncoderLayer off its fast path, whose norms could not be masked
        with torch.no_grad(), BaseTorchFunctionMode(), _MaskedNorms(structure, plan):
            return full(*inputs)

    return forward


class _MaskedNorms(TorchDispatchMode):
    """Runs the i-th normalisation or mean on the units that stay and puts zeros for the others.

    Means that are no normalisations have no axes in `Structure.norms`: they run on all units.
    """

    def __init__(self, structure: Structure, plan: KeepPlan) -> None:
        super().__init__()
        masks = structure.masks(plan)
        self.norms = iter([[keep_mask(axis, masks) for axis in axes] for axes in structure.norms])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        restricted = _restricted_norm(name, args)
        if restricted is None:
            return func(*args, **kwargs)
        masks = next(self.norms)
        if all(mask.all() for mask in masks):
            return func(*args, **kwargs)
        return restricted(func, [torch.from_numpy(mask).to(args[0].device) for mask in masks], *args, **kwargs)


def _restricted_norm(name: str, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """What stands in for the operator `name` where its statistics lose units; None for all that is no norm."""
    if name in ("mean", "var", "var_mean", "std", "std_mean"):
        return _statistic
    if name.endswith("batch_norm"):  # in training it takes its own statistics: weight standardisation
        return _batch_norm if next((a for a in args[1:] if isinstance(a, bool)), False) else None
    if name == "native_group_norm":
        return _group_norm
    return _layer_norm if name in ("native_layer_norm", "_fused_rms_norm") else None


def _statistic(func: Any, masks: list[Tensor], x: Tensor, *rest: Any, **kwargs: Any) -> Any:
    dims = rest[0] if rest and isinstance(rest[0], list) else range(x.ndim)
    return func(_cut(x, sorted(d % x.ndim for d in dims), masks), *rest, **kwargs)


def _batch_norm(func: Any, masks: list[Tensor], x: Tensor, *rest: Any) -> Any:
    dims = [d for d in range(x.ndim) if d != 1]
    out, *more = func(_cut(x, dims, masks), *rest)
    return _put_back(out, dims, masks), *more


def _layer_norm(func: Any, masks: list[Tensor], x: Tensor, shape: list[int], *rest: Any) -> Any:
    dims = list(range(x.ndim - len(shape), x.ndim))
    affine = [_cut(p, range(p.ndim), masks) if isinstance(p, Tensor) else p for p in rest]
    out, *more = func(_cut(x, dims, masks), [int(mask.sum()) for mask in masks], *affine)
    return _put_back(out, dims, masks), *more


def _group_norm(
    func: Any, masks: list[Tensor], x: Tensor, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> Any:
    channels = [torch.outer(*masks).flatten()]
    affine = [None if p is None else _cut(p, [0], channels) for p in (weight, bias)]
    sizes = int(channels[0].sum()), hw, int(masks[0].sum())
    out, *more = func(_cut(x, [1], channels), *affine, n, *sizes, eps)
    return _put_back(out, [1], channels), *more


def _cut(x: Tensor, dims: Iterable[int], masks: list[Tensor]) -> Tensor:
    for dim, mask in zip(dims, masks, strict=True):
        x = x.index_select(dim, mask.nonzero().flatten())
    return x


def _put_back(x: Tensor, dims: Iterable[int], masks: list[Tensor]) -> Tensor:
    """Undo `_cut`, with zeros at the removed positions."""
    for dim, mask in zip(dims, masks, strict=True):
        full = x.new_zeros([*x.shape[:dim], len(mask), *x.shape[dim + 1 :]])
        x = full.index_copy(dim, mask.nonzero().flatten(), x)
    return x
