"""Normalisations: statistics over the units that stay are what «silenced» means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mvp_deploy.structure.rules.registry import rule

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Layer norm and RMS norm: scale and shift have the axes of the last dimensions, which the norm runs over."""
    x, shape, *affine = args[:4]
    dims = range(-len(shape), 0)
    for parameter in affine:
        if isinstance(parameter, Tensor):
            for dim in dims:
                trace.unify(trace.axis(x, dim), trace.axis(parameter, dim))
    trace.set(out[0], list(trace.axes(x)))
    trace.over.extend(trace.axis(x, dim) for dim in dims)


@rule("native_group_norm")
def group_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[n, channels, …], channels = groups x inner; whole groups go, and their statistics with them."""
    x, *affine, _, _, _, groups, _ = args
    channels = trace.axis(x, 1)
    trace.groups, inner = trace.atoms.new(groups), trace.atoms.new(x.shape[1] // groups)
    trace.unify(channels, trace.product(trace.groups, inner))
    if groups > 1:
        trace.atoms.mark(trace.groups, "group")
    for parameter in affine:
        if parameter is not None:
            trace.unify(channels, trace.axis(parameter, 0))
    trace.set(out[0], list(trace.axes(x)))
    trace.over.append(channels)


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_native_batch_norm_legit.no_stats", "_batch_norm_with_update", "_batch_norm_no_update")  # fmt: skip
def batch_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[n, channels, …]: scale, shift, mean and variance have one value per channel."""
    x, *vectors = args[:5]
    for vector in vectors:
        if isinstance(vector, Tensor):
            trace.unify(trace.axis(x, 1), trace.axis(vector, 0))
    trace.set(out[0], list(trace.axes(x)))
    if next((a for a in args[1:] if isinstance(a, bool)), False):  # its own statistics: weight standardisation
        trace.over.extend(axis for dim, axis in enumerate(trace.axes(x)) if dim != 1)
