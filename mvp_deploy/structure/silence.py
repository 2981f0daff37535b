"""The full model with removed units silenced: what a smaller model must equal.

Silenced means zero, and normalisations taken over the units that stay. The weights of removed units are zeroed
wherever they lie, and norms over an axis that loses units are computed over the rest of it. A removed block's branch
adds zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from mvp_deploy.structure import rules
from mvp_deploy.structure.axes import Axis, keep_mask
from mvp_deploy.structure.blocks import Additions, removed
from mvp_deploy.structure.calls import CallMode
from mvp_deploy.structure.cut import Masks, cut, gather, put_back, scatter
from mvp_deploy.structure.fakes import copy_with, named_tensors
from mvp_deploy.structure.listening import module_paths, open_functionals
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.structure import Structure
from mvp_deploy.structure.trace import Ran


def silence(structure: Structure, model: nn.Module, plan: KeepPlan, *, inexact: bool = False) -> Callable[..., Any]:
    """A function like `model` in eval mode, full size, computing what the smaller model must compute.

    Args:
        structure: what `analyze` found in `model`.
        model: the full-size module; it is not changed.
        plan: which units of each group stay.
        inexact: run the operators that mix units (see `Structure.inexact`) over the units that stay as well. The
            smaller model then computes the same, and any difference is a mistake; without, it is what inexact removal
            costs.
    """
    state = {name: tensor.detach() for name, tensor in named_tensors(model)}
    silenced = state | scatter(structure, gather(structure, state, plan), plan)
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model):
        own = silenced[name] if silenced[name] is not state[name] else state[name].clone()  # a forward may change it
        memo[id(tensor)] = nn.Parameter(own, requires_grad=False) if isinstance(tensor, nn.Parameter) else own
    full = copy_with(model, memo).eval()
    masks = structure.masks(plan)

    def keep(tensors: Sequence[Sequence[Axis]], over: Sequence[Axis]) -> list[Masks]:
        kept = {axis: keep_mask(axis, masks) for axis in over}
        there = {axis: mask for axis, mask in kept.items() if not mask.all()}
        return [[there.get(axis) for axis in axes] for axes in tensors]

    restricted = {
        run: (keep(stays.inputs, stays.over), keep(stays.outputs, stays.over))
        for run, stays in structure.over_what_stays.items()
        if inexact or stays.exact
    }

    def forward(*inputs: Tensor) -> Any:
        operators = _Operators(restricted)
        functions = _Functions(operators, Additions(structure, removed(structure, plan)))
        with torch.no_grad(), open_functionals(), operators, functions, module_paths(full, functions.enter):
            return full(*inputs)

    return forward


class _Operators(TorchDispatchMode):
    """Runs the operators in `restricted` over what stays: the masks of their tensors, given and returned.

    `module` is the one that runs now.
    """

    def __init__(self, restricted: dict[Ran, tuple[list[Masks], list[Masks]]]) -> None:
        super().__init__()
        self.restricted, self.ran, self.paused, self.module = restricted, Counter[tuple[str, str]](), False, ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.paused:
            return func(*args, **(kwargs or {}))
        return self.run(rules.running_name(func), func, args, kwargs or {})

    def run(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = self.restricted.get((self.module, name, self.ran[self.module, name]))
        self.ran[self.module, name] += 1
        if found is None or all(mask is None for masks in found[0] for mask in masks):
            return func(*args, **kwargs)
        before, after = map(iter, found)
        args, kwargs = tree_map(lambda t: cut(t, next(before)) if isinstance(t, Tensor) else t, (args, kwargs))
        if name in _RESIZED:
            args = _RESIZED[name](found[0][0], *args)
        out = func(*args, **kwargs)
        return tree_map(lambda t: put_back(t, next(after, [])) if isinstance(t, Tensor) else t, out)


class _Functions(CallMode):
    """Counts and runs as one those functions that the analysis sees as one; the branches of `additions` give zero."""

    def __init__(self, operators: _Operators, additions: Additions) -> None:
        super().__init__()
        self.operators, self.additions = operators, additions

    def enter(self, module: str) -> None:
        self.operators.module = module
        self.additions.enter(module)

    def call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        block = self.additions.at(name)
        if block is not None:
            args[block.branch].zero_()
        if name not in rules.FUNCTIONS:
            return func(*args, **kwargs)
        self.operators.paused = True
        try:
            return self.operators.run(name, func, args, kwargs)
        finally:
            self.operators.paused = False


def _layer_norm(_: Masks, x: Tensor, shape: list[int], *rest: Any) -> tuple[Any, ...]:
    return x, list(x.shape[x.ndim - len(shape) :]), *rest


def _group_norm(
    masks: Masks, x: Tensor, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> tuple[Any, ...]:
    if masks[1] is not None:
        groups = int(masks[1].reshape(groups, -1).any(1).sum())
    return x, weight, bias, n, x.shape[1], hw, groups, eps


_RESIZED: dict[str, Callable[..., tuple[Any, ...]]] = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
}
"""Operators that are given sizes: their arguments for a tensor that was cut by masks."""
