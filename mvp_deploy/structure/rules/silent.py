"""Whether a tensor is zero where units are silent.

Weights of silent units are zero, and most operators pass zeros on. A sigmoid, an exponential or an added number does
not: the tensor is then *loud* at silent units. That does no harm while the units meet weights, whose columns are
zero. But where loud units are added up, or multiplied with others as loud, the full model counts what the smaller
one has not: those units cannot go.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from mvp_deploy.structure.axes import Axis, atoms_in
from mvp_deploy.structure.rules.registry import is_pointwise

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace

_QUIET = {"zeros", "zeros_like", "new_zeros", "zero", "empty", "empty_like", "native_layer_norm", "_fused_rms_norm",
          "native_group_norm"}  # fmt: skip
_LOUD = {"ones", "ones_like", "new_ones", "full", "full_like", "new_full", "_softmax", "_log_softmax", "_safe_softmax",
         "logsumexp", "scalar_tensor"}  # fmt: skip
_FACTORS = {"mm": -2, "addmm": -2, "bmm": -2, "baddbmm": -2, "mv": -2, "dot": -2, "convolution": 0}
"""Operators that multiply and add up, and where among `x, weight, …` or `…, a, b` their two factors begin."""
_SUMS = {"sum", "mean", "norm", "linalg_vector_norm", "var", "var_mean", "std", "std_mean"}
_ANSWERS: dict[Any, bool] = {}


def follow(trace: Trace, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Note whether the output of an operator, whose rule has been applied, is loud; freeze what cannot be added up."""
    inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    loud = name not in _QUIET and (name in _LOUD or _is_loud(trace, name, func, args, kwargs, inputs, out))
    for tensor in tree_leaves(out):
        if isinstance(tensor, Tensor) and loud:
            trace.loud[_storage(tensor)] = tensor  # held, so that no other storage takes its place
        elif isinstance(tensor, Tensor) and _fills_its_storage(tensor):
            trace.loud.pop(_storage(tensor), None)


def _storage(tensor: Tensor) -> int:
    """What a tensor shares with its views, through which it can become loud."""
    return tensor.untyped_storage()._cdata


def _fills_its_storage(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _loud(trace: Trace, tensor: Tensor) -> bool:
    return _storage(tensor) in trace.loud


def _is_loud(
    trace: Trace, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor], out: Any
) -> bool:
    if name in _FACTORS:
        return _multiplied(trace, name, [t for t in args if isinstance(t, Tensor)])
    if name == "scaled_dot_product_attention":
        if _both(trace, *args[:2]):
            trace.mix(trace.axis(args[0], -1))
        return _loud(trace, args[2])
    if is_pointwise(func, name) and isinstance(out, Tensor):
        return _loud_at_zero(trace, func, args, kwargs, out)
    if name == "constant_pad_nd" and len(args) > 2 and args[2] != 0:
        return True
    if name == "fill" and (isinstance(args[1], Tensor) or args[1] != 0):
        return True
    loud = any(_loud(trace, t) for t in inputs)
    if loud and name in _SUMS and isinstance(args[0], Tensor):
        out = out[0] if isinstance(out, tuple) else out
        left = [trace.atoms.resolve(axis) for axis in trace.axes(out)]
        for axis in trace.axes(args[0]):
            if trace.atoms.resolve(axis) not in left:
                trace.mix(axis)
    return loud


def _both(trace: Trace, a: Tensor, b: Tensor) -> bool:
    return _loud(trace, a) and _loud(trace, b)


def _multiplied(trace: Trace, name: str, tensors: list[Tensor]) -> bool:
    start = _FACTORS[name]
    a, b = tensors[start:][:2]
    if start == 0:  # a convolution's output channels are zero where its weight and bias are
        if _both(trace, a, b):
            trace.mix(trace.axis(a, 1))
        return False
    if _both(trace, a, b):
        trace.mix(trace.axis(a, -1))
        return True
    rows = _loud(trace, a) and a.ndim > 1 and _has_units(trace, trace.axis(a, -2))
    return rows or (_loud(trace, b) and b.ndim > 1 and _has_units(trace, trace.axis(b, -1)))


def _has_units(trace: Trace, axis: Axis) -> bool:
    batch = set(atoms_in(trace.atoms.resolve(trace.batch)))
    return any(atom not in batch for atom in atoms_in(trace.atoms.resolve(axis)))


def _loud_at_zero(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> bool:
    """Compute a pointwise operator where its quiet arguments are zero, and see."""
    units = [dim - out.ndim for dim, axis in enumerate(trace.axes(out)) if _has_units(trace, axis)]
    if not units:
        return False

    def values(t: Tensor) -> tuple[float, ...]:
        covers = all(t.ndim >= -dim and t.shape[dim] == out.shape[dim] for dim in units)
        if not _loud(trace, t) and covers:
            return (0,)
        if id(t) in trace.numbers:
            return (trace.numbers[id(t)],)
        return (0, 1) if t.dtype == torch.bool else (0.7,)

    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    options = [[(v, t.dtype) for v in values(t)] for t in tensors]
    plain = tree_map(lambda leaf: "tensor" if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    key = func, str(plain), str(options)
    if key not in _ANSWERS:
        _ANSWERS[key] = any(_computes_other_than_zero(func, args, kwargs, choice) for choice in product(*options))
    return _ANSWERS[key]


def _computes_other_than_zero(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], choice: Any) -> bool:
    with _disable_current_modes():
        given: Iterator[Tensor] = iter([torch.tensor(v, dtype=dtype) for v, dtype in choice])
        real = tree_map(lambda leaf: next(given) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        return bool((func(*real[0], **real[1]) != 0).any())
