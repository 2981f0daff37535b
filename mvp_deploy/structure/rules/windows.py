"""Pooling, resizing and sliding windows over the last dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mvp_deploy.structure.axes import fixed
from mvp_deploy.structure.rules.registry import OPERATORS, Rule, rule

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


def _spatial(rank: int) -> Rule:
    """Pooling and resizing: everything before the last `rank` dimensions passes."""

    def apply_rule(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        axes = trace.axes(args[0])
        for axis in axes[-rank:]:
            trace.freeze(axis)
        for tensor in out if isinstance(out, tuple) else [out]:
            trace.set(tensor, [*axes[:-rank], *map(fixed, tensor.shape[-rank:])])

    return apply_rule


for _rank in (1, 2, 3):
    for _name in ("avg_pool{}d", "_adaptive_avg_pool{}d", "adaptive_avg_pool{}d", "max_pool{}d_with_indices",
                  "max_pool{}d", "adaptive_max_pool{}d", "upsample_nearest{}d", "_upsample_nearest_exact{}d",
                  "upsample_linear{}d", "upsample_bilinear{}d", "_upsample_bilinear{}d_aa", "upsample_bicubic{}d",
                  "_upsample_bicubic{}d_aa", "upsample_trilinear{}d"):  # fmt: skip
        OPERATORS[_name.format(_rank)] = _spatial(_rank)
OPERATORS["grid_sampler_2d"] = lambda trace, args, kwargs, out: trace.set(
    out, [*trace.axes(args[0])[:2], *map(fixed, out.shape[2:])]
)


@rule("unfold")
def unfold(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Windows along one dimension; the positions inside a window are a new last dimension."""
    axes = list(trace.axes(args[0]))
    dim = args[1] % args[0].ndim
    trace.freeze(axes[dim])
    axes[dim] = fixed(out.shape[dim])
    trace.set(out, [*axes, fixed(args[2])])


@rule("im2col")
def im2col(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[n, channels, h, w] gives [n, channels x kernel, windows]."""
    kernel = args[1][0] * args[1][1]
    axes = trace.axes(args[0])
    channels = trace.product(axes[-3], fixed(kernel))
    trace.set(out, [*axes[:-3], channels, fixed(out.shape[-1])])


@rule("col2im")
def col2im(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[n, channels x kernel, windows] gives [n, channels, h, w]."""
    channels = trace.atoms.new(out.shape[-3])
    kernel = fixed(args[2][0] * args[2][1])
    trace.unify(trace.axis(args[0], -2), trace.product(channels, kernel))
    trace.set(out, [*trace.axes(args[0])[:-2], channels, *map(fixed, out.shape[-2:])])
