"""Which arguments of a call are sizes, and the axes they measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mvp_deploy.structure.axes import Axis, Reason
from mvp_deploy.structure.sizes import Observation, Size, origin_of

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace

Pairs = Iterator[tuple[Any, Axis]]


def observe(trace: Trace, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Note what the sizes in one call stand for. A plain number stands for itself: its axis cannot get another size."""
    if function in _ARITHMETIC:
        trace.uses.quantities.extend(a.origin for a in args if isinstance(a, Size))
    try:
        for size, axis in sizes_given(trace, function, args, kwargs, out):
            trace.observations.append(Observation(origin_of(size), axis, trace.module))
    except Exception as error:
        given = [value for value in args if isinstance(value, Tensor)]
        why = Reason(function, trace.module, note=f", whose sizes are not understood ({error!r})")
        trace.not_understood(function, given, out, why)


def sizes_given(trace: Trace, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    """The numbers among the arguments of a call that are sizes, and the axes they measure."""
    find = _SIZES.get(function)
    for size, axis in find(trace, args, kwargs, out) if find else ():
        if isinstance(size, int) and size >= 0:  # -1 stands for whatever is left
            yield size, axis


def sized_shape(trace: Trace, tensor: Tensor, shape: torch.Size | int, dim: int | None = None) -> Any:
    """What `Tensor.shape` or `Tensor.size(dim)` gave, as `Size`s that know their axes."""
    axes = trace.axes(tensor)

    def size(number: int, dim: int) -> Size:
        found = Size.of(number, axes[dim], trace.uses)
        if trace.recorder is not None:
            found.told_by = tensor, dim
        return found

    if isinstance(shape, int):
        return size(shape, dim or 0)
    return torch.Size(size(number, dim) for dim, number in enumerate(shape))


def _flat(args: tuple[Any, ...]) -> list[Any]:
    return list(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else list(args)


def _output_sizes(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    sizes = kwargs.get("size", kwargs.get("shape")) or _flat(args[1:])
    yield from zip(sizes, trace.axes(out), strict=False)


def _repeats(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    """How often one position is repeated is how many there are then."""
    times = kwargs.get("repeats") or _flat(args[1:])
    before = [1] * (out.ndim - args[0].ndim) + list(args[0].shape)
    yield from ((n, axis) for n, size, axis in zip(times, before, trace.axes(out), strict=True) if size == 1)


def _factory_sizes(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    yield from zip(kwargs.get("size") or _flat(args), trace.axes(out), strict=False)


def _unflatten(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    x, dim, sizes = args
    yield from zip(sizes, trace.axes(out)[dim % x.ndim :], strict=False)


def _normalized_shape(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    yield from zip(shape, trace.axes(args[0])[-len(shape) :], strict=True)


def _argument(place: int, name: str) -> Callable[..., Pairs]:
    """The number of groups of a grouped operator, its argument `name` at `place`."""

    def find(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
        yield (args[place] if len(args) > place else kwargs.get(name)), trace.groups

    return find


def _split(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    sizes = args[1] if len(args) > 1 else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    yield from zip(
        sizes if isinstance(sizes, (tuple, list)) else [sizes], (trace.axis(o, dim) for o in out), strict=False
    )


def _narrow(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    x, dim, start, length = args
    whole = trace.axis(x, dim)
    yield start, trace.cut(whole, 0, int(start))
    yield length, trace.axis(out, dim)


def _slice(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    x, dim, *borders = args
    yield from _borders(trace, x, dim, slice(*borders))


def _getitem(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    x, index = args
    index = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [i for i in index if i is Ellipsis]:
        place = next(p for p, i in enumerate(index) if i is Ellipsis)
        used = sum(i is not None and i is not Ellipsis for i in index)
        index[place : place + 1] = [slice(None)] * (x.ndim - used)
    dim = 0
    for item in index:
        if item is None:
            continue
        if isinstance(item, slice):
            yield from _borders(trace, x, dim, item)
        dim += item.ndim if isinstance(item, Tensor) and item.dtype.is_floating_point is False else 1


def _borders(trace: Trace, x: Tensor, dim: int, item: slice) -> Pairs:
    """A border measures what lies before it, one counted from the end what lies behind it."""
    size = x.shape[dim]
    for border in (item.start, item.stop) if item.step in (None, 1) else ():
        if isinstance(border, int) and 0 < border <= size:
            yield border, trace.cut(trace.axis(x, dim), 0, int(border))
        elif isinstance(border, int) and -size < border < 0:
            yield -border, trace.cut(trace.axis(x, dim), size + int(border), size)


_ARITHMETIC = {"mul", "div", "true_divide", "add", "sub", "pow", "__mul__", "__truediv__", "__rmul__", "__rtruediv__"}

_SIZES: dict[str, Callable[..., Pairs]] = {
    **dict.fromkeys(("view", "reshape", "expand", "new_zeros", "new_ones", "new_full", "new_empty"), _output_sizes),
    **dict.fromkeys(("zeros", "ones", "empty", "full"), _factory_sizes),
    "repeat": _repeats,
    "unflatten": _unflatten,
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalized_shape),
    "group_norm": _argument(1, "num_groups"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _argument(6, "groups")),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _argument(6, "groups")),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "slice": _slice,
    "narrow": _narrow,
    "__getitem__": _getitem,
}

TAKES_SIZES = _SIZES.keys()
"""The functions that are given sizes as numbers."""
