"""Sums, means, extrema, and what else mixes the positions of a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mvp_deploy.structure.axes import fixed
from mvp_deploy.structure.rules.pointwise import pointwise
from mvp_deploy.structure.rules.registry import rule

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


def _reduced(x: Tensor, dims: Any) -> set[int]:
    """The dimensions that `dims` (a number, several, or None for all) means."""
    if dims is None or dims == []:
        return set(range(x.ndim))
    return {d % x.ndim for d in (dims if isinstance(dims, (list, tuple)) else [dims])} if x.ndim else set()


def _reduce(trace: Trace, x: Tensor, dims: Any, outs: Sequence[Any], mixes: bool) -> None:
    gone = _reduced(x, dims)
    axes = trace.axes(x)
    if mixes:
        for d in gone:
            trace.mix(axes[d])
    for out in outs:
        keeps = out.ndim == x.ndim
        trace.set(out, [fixed(1) if d in gone else a for d, a in enumerate(axes) if keeps or d not in gone])


@rule("sum", "linalg_vector_norm", "norm")
def total(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Silent units add nothing to a sum or to a Euclidean norm."""
    is_norm = len(args) > 1 and isinstance(args[1], (int, float))
    euclidean = not is_norm or args[1] in (1, 2)
    dims = args[2] if is_norm and len(args) > 2 else None if is_norm or len(args) < 2 else args[1]
    _reduce(trace, args[0], dims, [out], mixes=not euclidean)


@rule("var", "var_mean", "std", "std_mean")
def norm_statistic(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """What norms written out in full divide by: like theirs, taken over the units that stay."""
    x, dims = args[0], _dims(args, kwargs)
    trace.over.extend(trace.axis(x, d) for d in _reduced(x, dims))
    _reduce(trace, x, dims, out if isinstance(out, tuple) else [out], mixes=False)


@rule("mean")
def mean(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A mean of squares belongs to a norm; any other may be a feature of its own, so its units stay."""
    x, dims = args[0], _dims(args, kwargs)
    if id(x) in trace.squares:
        norm_statistic(trace, args, kwargs, out)
        return
    _reduce(trace, x, dims, [out], mixes=True)


@rule("amax", "amin", "logsumexp", "prod", "any", "all", "argmax")
def statistic(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Extrema, products and the like over dimensions, all of whose positions count."""
    _reduce(trace, args[0], _dims(args, kwargs), out if isinstance(out, tuple) else [out], mixes=True)


def _dims(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 and not isinstance(args[1], bool) else kwargs.get("dim")


@rule("max", "min")
def extremum(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """The larger or smaller of two tensors, or of the positions of dimensions."""
    if isinstance(out, Tensor) and len(args) > 1 and isinstance(args[1], Tensor):
        pointwise(trace, args, kwargs, out)
    else:
        statistic(trace, args, kwargs, out)


@rule("_softmax", "_log_softmax", "cumsum", "sort", "topk", "_safe_softmax", "logcumsumexp")
def along(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Mixes the positions of one dimension."""
    if out is None or isinstance(out, tuple):
        for axis in trace.axes(args[0]):
            trace.freeze(axis)
        return
    trace.freeze(trace.axis(args[0], args[1] if len(args) > 1 else kwargs.get("dim", -1)))
    trace.set(out, list(trace.axes(args[0])))
