"""Views: the same values in other dimensions."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mvp_deploy.structure.axes import Axis, axis_size, fixed
from mvp_deploy.structure.rules.registry import rule

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy")
def view(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Dimensions flattened into one axis or one axis split into several, run by run (see `_matching_dims`)."""
    x: Tensor = args[0]
    if list(x.shape) == list(out.shape):
        trace.set(out, trace.axes(x))
        return
    axes: list[Axis] = []
    for sources, targets in _matching_dims(list(x.shape), list(out.shape)):
        whole = trace.product(*(trace.axis(x, d) for d in sources))
        parts = [trace.atoms.new(out.shape[d]) for d in targets]
        if len(parts) == 1:
            axes.append(whole)
        else:
            trace.unify(whole, trace.product(*parts))
            axes.extend(parts)
    trace.set(out, axes)


def _matching_dims(before: list[int], after: list[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions, before and after a view, that hold the same elements.

    >>> _matching_dims([2, 3, 4], [6, 4])
    [([0, 1], [0]), ([2], [1])]
    """
    runs: list[tuple[list[int], list[int]]] = []
    old, new = deque(enumerate(before)), deque(enumerate(after))  # dimensions that are in no run yet
    while old or new:
        sources: list[int] = []
        targets: list[int] = []
        taken = given = 1  # elements of the run's dimensions, before and after
        while (taken != given or not sources or not targets) and (old or new):
            if old and (taken < given or not sources or not new):
                dim, size = old.popleft()
                taken, sources = taken * size, [*sources, dim]
            else:
                dim, size = new.popleft()
                given, targets = given * size, [*targets, dim]
        while old and old[0][1] == 1 and not (new and new[0][1] == 1):
            sources.append(old.popleft()[0])
        while new and new[0][1] == 1 and not old:
            targets.append(new.popleft()[0])
        runs.append((sources, targets))
    return runs


@rule("permute")
def permute(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Dimensions in another order."""
    trace.set(out, [trace.axis(args[0], d) for d in args[1]])


@rule("transpose", "t", "swapaxes")
def transpose(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Two dimensions change places."""
    axes = list(trace.axes(args[0]))
    if len(axes) > 1:
        a, b = args[1:] or (0, 1)
        axes[a], axes[b] = axes[b], axes[a]
    trace.set(out, axes)


@rule("unsqueeze")
def unsqueeze(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A new dimension of size 1."""
    axes = list(trace.axes(args[0]))
    axes.insert(args[1] % out.ndim, fixed(1))
    trace.set(out, axes)


@rule("squeeze")
def squeeze(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Dimensions of size 1 are dropped."""
    x: Tensor = args[0]
    wanted = range(x.ndim) if len(args) == 1 else args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    gone = {d % x.ndim for d in wanted if x.shape[d] == 1} if x.ndim else set()
    trace.set(out, [axis for d, axis in enumerate(trace.axes(x)) if d not in gone])


@rule("expand")
def expand(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A dimension of size 1 becomes any number of equal positions."""
    axes = [trace.atoms.new(n) for n in out.shape]
    x: Tensor = args[0]
    for dim in range(-x.ndim, 0):
        if x.shape[dim] == out.shape[dim]:
            axes[dim] = trace.axis(x, dim)
    trace.set(out, axes)


@rule("repeat")
def repeat(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[c] gives [times x c], copy after copy."""
    x: Tensor = args[0]
    axes = [fixed(1)] * (out.ndim - x.ndim) + list(trace.axes(x))
    times = [trace.atoms.new(n) if axis_size(a) == 1 else fixed(n) for n, a in zip(args[1], axes, strict=True)]
    trace.set(out, [trace.product(n, a) for n, a in zip(times, axes, strict=True)])


@rule("flip", "roll")
def reorder(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Positions of a dimension in another order: all of them stay."""
    dims = args[-1] if len(args) > 1 else kwargs.get("dims", range(out.ndim))
    for dim in dims if isinstance(dims, (list, tuple, range)) else [dims]:
        trace.freeze(trace.axis(args[0], dim))
    trace.set(out, list(trace.axes(args[0])))


@rule("pixel_shuffle")
def pixel_shuffle(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[..., channels x r², h, w] gives [..., channels, h x r, w x r]."""
    channels = trace.atoms.new(out.shape[-3])
    trace.unify(trace.axis(args[0], -3), trace.product(channels, fixed(args[1] ** 2)))
    trace.set(out, [*trace.axes(args[0])[:-3], channels, *map(fixed, out.shape[-2:])])


@rule("pixel_unshuffle")
def pixel_unshuffle(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[..., channels, h x r, w x r] gives [..., channels x r², h, w]."""
    axes = trace.axes(args[0])
    channels = trace.product(axes[-3], fixed(args[1] ** 2))
    trace.set(out, [*axes[:-3], channels, *map(fixed, out.shape[-2:])])
