"""Convolutions, matrix products and attention: what ties the units of one layer to those of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mvp_deploy.structure.axes import Axis, fixed
from mvp_deploy.structure.rules.pointwise import pointwise
from mvp_deploy.structure.rules.registry import function_rule, rule

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


@rule("mm", "addmm")
def mm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[n, k] x [k, m] gives [n, m]."""
    *bias, a, b = args[:3] if len(args) > 2 else args
    trace.unify(trace.axis(a, 1), trace.axis(b, 0))
    trace.set(out, [trace.axis(a, 0), trace.axis(b, 1)])
    trace.count(1, trace.axis(a, 0), trace.axis(a, 1), trace.axis(b, 1))
    if bias:
        pointwise(trace, (out, bias[0]), {}, out)


@rule("bmm", "baddbmm")
def bmm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[b, n, k] x [b, k, m] gives [b, n, m]; b holds attention heads."""
    *bias, a, b = args[:3] if len(args) > 2 else args
    batch = trace.axis(a, 0)
    trace.unify(batch, trace.axis(b, 0))
    trace.unify(trace.axis(a, 2), trace.axis(b, 1))
    trace.atoms.mark(batch, "head")
    trace.set(out, [batch, trace.axis(a, 1), trace.axis(b, 2)])
    trace.count(1, batch, trace.axis(a, 1), trace.axis(a, 2), trace.axis(b, 2))
    if bias:
        pointwise(trace, (out, bias[0]), {}, out)


@rule("mv", "dot")
def mv(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[n, k] x [k] gives [n]."""
    trace.unify(trace.axis(args[0], -1), trace.axis(args[1], 0))
    trace.set(out, list(trace.axes(args[0])[:-1]))
    trace.count(1, *trace.axes(args[0]))


@rule("convolution")
def convolution(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """[n, groups x in, …] by a weight [groups x out, in, …], transposed [groups x in, out, …]."""
    x, weight, bias, *_, transposed, _, groups = args[:9]
    ins, outs = (0, 1) if transposed else (1, 0)
    for dim in range(2, weight.ndim):
        trace.freeze(trace.axis(weight, dim), part="kernel")
    trace.groups = trace.atoms.new(groups)
    if groups > 1:  # the dimension of the weight that holds both groups and what is in them
        inner = trace.atoms.new(weight.shape[0] // groups)
        trace.unify(trace.axis(weight, 0), trace.product(trace.groups, inner))
        trace.atoms.mark(trace.groups, "group")
        for_in, for_out = (inner, trace.axis(weight, 1)) if transposed else (trace.axis(weight, 1), inner)
    else:
        for_in, for_out = trace.axis(weight, ins), trace.axis(weight, outs)
    trace.unify(trace.axis(x, 1), trace.product(trace.groups, for_in))
    channels = trace.product(trace.groups, for_out)
    if bias is not None:
        trace.unify(channels, trace.axis(bias, 0))
    trace.set(out, [trace.axis(x, 0), channels, *_convolved(trace, x, weight, args, out)])
    positions = trace.axes(x if transposed else out)[2:]
    trace.count(weight.shape[2:].numel(), trace.axis(x, 0), channels, for_in, *positions)


def _convolved(trace: Trace, x: Tensor, weight: Tensor, args: tuple[Any, ...], out: Tensor) -> list[Axis]:
    """The axes a convolution slides over: they pass a kernel of one position, any other mixes them."""
    axes = []
    for place, dim in enumerate(range(2, x.ndim)):
        one = weight.shape[dim] == 1 and all(a[place % len(a)] == n for a, n in zip(args[3:5], (1, 0), strict=True))
        if not one:
            trace.mix(trace.axis(x, dim))
        axes.append(trace.axis(x, dim) if x.shape[dim] == out.shape[dim] else fixed(out.shape[dim]))
    return axes


@function_rule("scaled_dot_product_attention")
def attention(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Scaled dot-product attention, softmax(q k^T * scale) v, on [..., heads, tokens, head size]."""
    q, k, v = args[:3]
    if kwargs.get("enable_gqa"):  # every key's head serves several queries' heads, one after the other
        per_key = fixed(q.shape[-3] // k.shape[-3])
        trace.unify(trace.axis(k, -3), trace.axis(v, -3))
        trace.unify(trace.axis(q, -3), trace.product(trace.axis(k, -3), per_key))
    for dim in range(-q.ndim, -2):
        for other in (k, v):
            if other.shape[dim] == q.shape[dim]:
                trace.unify(trace.axis(q, dim), trace.axis(other, dim))
    trace.unify(trace.axis(q, -1), trace.axis(k, -1))
    trace.unify(trace.axis(k, -2), trace.axis(v, -2))
    trace.freeze(trace.axis(k, -2))  # the softmax runs over these tokens
    for tensor in (q, k, v):
        trace.note_use(tensor)
    if kwargs.get("scale") is None:
        trace.freeze(trace.axis(q, -1), part="scale", note=", which follows from the head size")
    for dim in range(q.ndim - 2):
        trace.atoms.mark(trace.axis(q, dim), "head")
    trace.set(out, [*trace.axes(q)[:-1], trace.axis(v, -1)])
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    if mask is not None:
        trace.note_use(mask)
        shape = [*trace.axes(q)[:-1], trace.axis(k, -2)]
        for dim in range(-mask.ndim, 0):
            if mask.shape[dim] > 1:
                trace.unify(trace.axis(mask, dim), shape[dim])
    trace.count(1, *trace.axes(q), trace.axis(k, -2))
    trace.count(1, *trace.axes(q)[:-1], trace.axis(k, -2), trace.axis(v, -1))


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")  # fmt: skip
def fused_attention(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A kernel of scaled dot-product attention, called by itself."""
    attention(trace, args[:3], {"scale": kwargs.get("scale"), "attn_mask": kwargs.get("attn_mask")}, out[0])
