"""Taking tensors apart and putting them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mvp_deploy.structure.axes import axis_size, fixed
from mvp_deploy.structure.rules.registry import rule

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


@rule("select")
def select(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """One position of a dimension, which is gone then and keeps all of its positions before."""
    axes = list(trace.axes(args[0]))
    trace.freeze(axes.pop(args[1]))
    trace.set(out, axes)


@rule("unbind")
def unbind(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Every position of a dimension as a tensor of its own."""
    axes = list(trace.axes(args[0]))
    trace.freeze(axes.pop(args[1] if len(args) > 1 else 0))
    for part in out:
        trace.set(part, axes)


@rule("slice")
def slice_(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Positions start to stop of a dimension; every step-th where its size is a multiple of the step."""
    x: Tensor = args[0]
    given: tuple[Any, ...] = args[1:]
    dim, start, stop, step = given + (0, None, None, 1)[len(given) :]
    axes = list(trace.axes(x))
    size = x.shape[dim]
    start, stop = start or 0, size if stop is None else min(stop, size)
    start, stop = start % size if start < 0 else start, stop % size if stop < 0 else stop
    if step == 1:
        axes[dim] = axes[dim] if (start, stop) == (0, size) else trace.cut(axes[dim], start, stop)
    elif size % step == 0:  # every step-th position: the minor part of a product
        major = trace.atoms.new(size // step)
        trace.unify(axes[dim], trace.product(major, fixed(step)))
        axes[dim] = major if axis_size(major) == out.shape[dim] else fixed(out.shape[dim])
    else:
        trace.freeze(axes[dim])
        axes[dim] = fixed(out.shape[dim])
    trace.set(out, axes)


@rule("split", "split_with_sizes")
def split(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Cut an axis; parts said to be equal (`chunk`) keep the same units, so that they stay equal."""
    x, sizes = args[:2]
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    whole, start, parts = trace.axis(x, dim), 0, []
    for part in out:
        stop = start + part.shape[dim]
        parts.append(trace.cut(whole, start, stop) if len(out) > 1 else whole)
        start = stop
    if isinstance(sizes, int):
        for other in parts[1:]:
            trace.unify(parts[0], other)
    for part, axis in zip(out, parts, strict=True):
        axes = list(trace.axes(x))
        axes[dim] = axis
        trace.set(part, axes)


@rule("glu")
def glu(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """One half of a dimension times the gate that the other half is."""
    axes = list(trace.axes(args[0]))
    dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    half = out.shape[dim]
    first, second = (trace.cut(axes[dim], start, start + half) for start in (0, half))
    trace.unify(first, second)
    axes[dim] = first
    trace.set(out, axes)


@rule("cat")
def cat(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Tensors end to end along one dimension; the others are the same in all of them."""
    tensors = [t for t in args[0] if t.ndim == out.ndim]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    axes = list(trace.axes(tensors[0]))
    for other in tensors[1:]:
        for d in range(out.ndim):
            if d != dim:
                trace.unify(axes[d], trace.axis(other, d))
    axes[dim] = trace.atoms.resolve(tuple(s for t in tensors for s in trace.axis(t, dim)))
    trace.set(out, axes)


@rule("stack")
def stack(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Tensors of the same axes, side by side in a new dimension."""
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    axes = list(trace.axes(args[0][0]))
    for other in args[0][1:]:
        for axis, own in zip(axes, trace.axes(other), strict=True):
            trace.unify(axis, own)
    axes.insert(dim, fixed(out.shape[dim]))
    trace.set(out, axes)


@rule("constant_pad_nd")
def pad_constant(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """What is added stays; a negative border cuts."""
    x, borders = args[:2]
    axes = list(trace.axes(x))
    for place in range(len(borders) // 2):
        dim = x.ndim - 1 - place
        left, right = borders[2 * place : 2 * place + 2]
        start, stop = max(0, -left), x.shape[dim] - max(0, -right)
        if (start, stop) != (0, x.shape[dim]):
            axes[dim] = trace.cut(axes[dim], start, stop)
        added = [((n,),) if n > 0 else () for n in (left, right)]
        axes[dim] = trace.atoms.resolve(added[0] + axes[dim] + added[1])
    trace.set(out, axes)


@rule("reflection_pad1d", "reflection_pad2d", "replication_pad2d", "pad")
def pad(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Padding by what the tensor holds: the padded dimensions stay whole."""
    axes = list(trace.axes(args[0]))
    for place in range(len(args[1]) // 2):
        if any(args[1][2 * place : 2 * place + 2]):
            dim = -1 - place
            trace.freeze(axes[dim])
            axes[dim] = fixed(out.shape[dim])
    trace.set(out, axes)


@rule("index", "_unsafe_index")
def index(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Positions picked by index tensors: a picked dimension stays whole, and the index takes its place."""
    x, indices = args
    places = [d for d, i in enumerate(indices) if i is not None]
    for d in places:
        trace.freeze(trace.axis(x, d))
    picked = out.ndim - (x.ndim - len(places))
    axes = [trace.axis(x, d) for d in range(x.ndim) if d not in places]
    front = places[0] if places == list(range(places[0], places[-1] + 1)) else 0
    axes[front:front] = [fixed(n) for n in out.shape[front : front + picked]]
    trace.set(out, axes)


@rule("index_select")
def index_select(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Positions of one dimension picked by an index: it stays whole."""
    axes = list(trace.axes(args[0]))
    trace.freeze(axes[args[1]])
    axes[args[1]] = fixed(out.shape[args[1]])
    trace.set(out, axes)


@rule("embedding")
def embedding(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Rows of a table [entries, width] picked by indices [...]: gives [..., width], and every entry stays."""
    trace.freeze(trace.axis(args[0], 0))
    trace.set(out, [*trace.axes(args[1]), trace.axis(args[0], 1)])
