"""Operators that treat every position the same, and tensors made from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from mvp_deploy.structure.axes import axis_size, fixed
from mvp_deploy.structure.rules.registry import rule

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


def pointwise(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Every tensor argument, broadcast to the output, has the output's axes."""
    if not isinstance(out, Tensor):
        return
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    axes = [fixed(1)] * out.ndim
    for tensor in tensors:
        for dim in range(-min(tensor.ndim, out.ndim), 0):
            if tensor.shape[dim] == 1:
                continue
            own = trace.axis(tensor, dim)
            if axis_size(axes[dim]) == 1:
                axes[dim] = own
            else:
                trace.unify(axes[dim], own)
    trace.set(out, axes)


@rule(
    "clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy", "as_strided_", "fill",
    "zero", "bernoulli", "native_dropout", "zeros_like", "ones_like", "full_like", "empty_like",
)  # fmt: skip
def same(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """The output has the input's axes, unless it is of another shape."""
    first = out[0] if isinstance(out, tuple) else out
    trace.set(first, trace.axes(args[0]) if first.shape == args[0].shape else [fixed(n) for n in first.shape])


@rule("copy")
def copy(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Values written into a tensor, broadcast to it."""
    pointwise(trace, args[:2], {}, out)


@rule("pow", "square")
def power(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A pointwise operator; squares are noted, since a mean of them belongs to a norm."""
    pointwise(trace, args, kwargs, out)
    exponent = args[1] if len(args) > 1 else 2
    if isinstance(exponent, (int, float)) and exponent == 2:
        trace.squares.add(id(out))


@rule(
    "empty", "zeros", "ones", "full", "new_empty", "new_zeros", "new_ones", "new_full", "empty_strided",
    "new_empty_strided", "scalar_tensor",
)  # fmt: skip
def uniform(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Every position of a constant is like every other, so it can shrink with whatever it meets."""
    trace.set(out, [trace.atoms.new(n) for n in out.shape])


@rule("arange", "eye", "linspace", "rand", "randn", "randperm", "tril_indices", "triu_indices", "tril", "triu")
def pattern(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Values that depend on their positions, so that none may go; the output is fixed."""
    for tensor in (a for a in args if isinstance(a, Tensor)):
        for axis in trace.axes(tensor):
            trace.freeze(axis)
