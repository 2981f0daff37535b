"""What every operator does to axes.

A rule gets the trace, the operator's arguments and its output, and says which axes are the same (`unify`), which
cannot be taken apart (`freeze`) and what the output's dimensions are made of (`set`). Knowledge is per operator,
never per model. An operator without a rule freezes everything that touches it. To add one: write a function, name
its operators in the decorator, and add a model that uses it to the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mvp_deploy.structure.axes import Axis, axis_size, fixed, product

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace

Rule = Callable[["Trace", tuple[Any, ...], dict[str, Any], Any], None]

OPERATORS: dict[str, Rule] = {}  # by ATen name, without namespace
_UNTAGGED_POINTWISE = {"hardswish", "hardsigmoid", "hardtanh", "mish", "silu", "leaky_relu", "relu6", "elu"}
FUNCTIONS: dict[str, Rule] = {}  # by the name of the Python function, kept whole instead of taken apart


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def apply(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Let the rule of `func` say what it did; without one, freeze whatever went in."""
    inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    for tensor in inputs:
        trace.note_use(tensor)
    name = func._schema.name.removeprefix("aten::")
    plain = name.removesuffix("_")  # in place or not makes no difference
    found = OPERATORS.get(name) or OPERATORS.get(plain)
    if found is None and (torch.Tag.pointwise in func.tags or plain in _UNTAGGED_POINTWISE):
        found = pointwise
    if found is not None:
        found(trace, args, kwargs, out)
        return
    for axis in (axis for tensor in inputs for axis in trace.axes(tensor)):
        trace.freeze(axis)
    if inputs:
        trace.unknown[name] = trace.unknown.get(name, 0) + 1


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
    "zero", "bernoulli", "native_dropout",
)  # fmt: skip
def same(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    first = out[0] if isinstance(out, tuple) else out
    trace.set(first, trace.axes(args[0]) if first.shape == args[0].shape else [fixed(n) for n in first.shape])


@rule("copy")
def copy(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    pointwise(trace, args[:2], {}, out)


@rule("empty", "zeros", "ones", "full", "new_empty", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like",
      "full_like", "empty_like", "empty_strided", "new_empty_strided", "scalar_tensor")  # fmt: skip
def uniform(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Every position of a constant is like every other, so it can shrink with whatever it meets."""
    trace.set(out, [trace.atoms.new(n) for n in out.shape])


@rule("arange", "eye", "linspace", "rand", "randn", "randperm", "tril_indices", "triu_indices", "tril", "triu")
def pattern(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    for tensor in (a for a in args if isinstance(a, Tensor)):
        for axis in trace.axes(tensor):
            trace.freeze(axis)


# ---- shapes ----


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy")
def view(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x: Tensor = args[0]
    if list(x.shape) == list(out.shape):
        trace.set(out, trace.axes(x))
        return
    axes: list[Axis] = []
    for sources, targets in _matching_dims(list(x.shape), list(out.shape)):
        whole = product([trace.axis(x, d) for d in sources], trace.atoms, trace.why)
        parts = [trace.atoms.new(out.shape[d]) for d in targets]
        if len(parts) == 1:
            axes.append(whole)
        else:
            trace.unify(whole, product(parts, trace.atoms, trace.why))
            axes.extend(parts)
    trace.set(out, axes)


def _matching_dims(before: list[int], after: list[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions, before and after a view, that hold the same elements."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        sources: list[int] = []
        targets: list[int] = []
        n = m = 1
        while (n != m or not sources or not targets) and (i < len(before) or j < len(after)):
            if i < len(before) and (n < m or not sources or j >= len(after)):
                n, i, sources = n * before[i], i + 1, [*sources, i]
            else:
                m, j, targets = m * after[j], j + 1, [*targets, j]
        while i < len(before) and before[i] == 1 and (j >= len(after) or after[j] != 1):
            i, sources = i + 1, [*sources, i]
        while j < len(after) and after[j] == 1 and i >= len(before):
            j, targets = j + 1, [*targets, j]
        runs.append((sources, targets))
    return runs


@rule("permute")
def permute(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    trace.set(out, [trace.axis(args[0], d) for d in args[1]])


@rule("transpose", "t", "swapaxes")
def transpose(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = list(trace.axes(args[0]))
    if len(axes) > 1:
        a, b = args[1:] or (0, 1)
        axes[a], axes[b] = axes[b], axes[a]
    trace.set(out, axes)


@rule("unsqueeze")
def unsqueeze(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = list(trace.axes(args[0]))
    axes.insert(args[1] % out.ndim, fixed(1))
    trace.set(out, axes)


@rule("squeeze")
def squeeze(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x: Tensor = args[0]
    wanted = range(x.ndim) if len(args) == 1 else args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    gone = {d % x.ndim for d in wanted if x.shape[d] == 1} if x.ndim else set()
    trace.set(out, [axis for d, axis in enumerate(trace.axes(x)) if d not in gone])


@rule("expand")
def expand(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = [trace.atoms.new(n) for n in out.shape]
    x: Tensor = args[0]
    for dim in range(-x.ndim, 0):
        if x.shape[dim] == out.shape[dim]:
            axes[dim] = trace.axis(x, dim)
    trace.set(out, axes)


@rule("repeat")
def repeat(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x: Tensor = args[0]
    axes = [fixed(1)] * (out.ndim - x.ndim) + list(trace.axes(x))
    trace.set(out, [product([fixed(n), a], trace.atoms, trace.why) for n, a in zip(args[1], axes, strict=True)])


@rule("select")
def select(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = list(trace.axes(args[0]))
    trace.freeze(axes.pop(args[1]))
    trace.set(out, axes)


@rule("unbind")
def unbind(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = list(trace.axes(args[0]))
    trace.freeze(axes.pop(args[1] if len(args) > 1 else 0))
    for part in out:
        trace.set(part, axes)


@rule("slice")
def slice_(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x: Tensor = args[0]
    given: tuple[Any, ...] = args[1:]
    dim, start, stop, step = given + (0, None, None, 1)[len(given) :]
    axes = list(trace.axes(x))
    size = x.shape[dim]
    start, stop = start or 0, size if stop is None else min(stop, size)
    start, stop = start % size if start < 0 else start, stop % size if stop < 0 else stop
    if step == 1:
        axes[dim] = axes[dim] if (start, stop) == (0, size) else trace.atoms.cut(axes[dim], start, stop, trace.why)
    elif size % step == 0:  # every step-th position: the minor part of a product
        major = trace.atoms.new(size // step)
        trace.unify(axes[dim], product([major, fixed(step)], trace.atoms, trace.why))
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
        parts.append(trace.atoms.cut(whole, start, stop, trace.why) if len(out) > 1 else whole)
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
    first, second = (trace.atoms.cut(axes[dim], start, start + half, trace.why) for start in (0, half))
    trace.unify(first, second)
    axes[dim] = first
    trace.set(out, axes)


@rule("cat")
def cat(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
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
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    axes = list(trace.axes(args[0][0]))
    for other in args[0][1:]:
        for axis, own in zip(axes, trace.axes(other), strict=True):
            trace.unify(axis, own)
    axes.insert(dim, fixed(out.shape[dim]))
    trace.set(out, axes)


@rule("flip", "roll")
def reorder(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    dims = args[-1] if len(args) > 1 else kwargs.get("dims", range(out.ndim))
    for dim in dims if isinstance(dims, (list, tuple, range)) else [dims]:
        trace.freeze(trace.axis(args[0], dim))
    trace.set(out, list(trace.axes(args[0])))


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
            axes[dim] = trace.atoms.cut(axes[dim], start, stop, trace.why)
        added = [((n,),) if n > 0 else () for n in (left, right)]
        axes[dim] = trace.atoms.resolve(added[0] + axes[dim] + added[1])
    trace.set(out, axes)


@rule("reflection_pad1d", "reflection_pad2d", "replication_pad2d", "pad")
def pad(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = list(trace.axes(args[0]))
    for place in range(len(args[1]) // 2):
        if any(args[1][2 * place : 2 * place + 2]):
            dim = -1 - place
            trace.freeze(axes[dim])
            axes[dim] = fixed(out.shape[dim])
    trace.set(out, axes)


@rule("pixel_shuffle")
def pixel_shuffle(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    channels = trace.atoms.new(out.shape[-3])
    trace.unify(trace.axis(args[0], -3), product([channels, fixed(args[1] ** 2)], trace.atoms, trace.why))
    trace.set(out, [*trace.axes(args[0])[:-3], channels, *map(fixed, out.shape[-2:])])


@rule("pixel_unshuffle")
def pixel_unshuffle(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = trace.axes(args[0])
    channels = product([axes[-3], fixed(args[1] ** 2)], trace.atoms, trace.why)
    trace.set(out, [*axes[:-3], channels, *map(fixed, out.shape[-2:])])


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
    kernel = args[1][0] * args[1][1]
    axes = trace.axes(args[0])
    channels = product([axes[-3], fixed(kernel)], trace.atoms, trace.why)
    trace.set(out, [*axes[:-3], channels, fixed(out.shape[-1])])


@rule("col2im")
def col2im(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    channels = trace.atoms.new(out.shape[-3])
    kernel = fixed(args[2][0] * args[2][1])
    trace.unify(trace.axis(args[0], -2), product([channels, kernel], trace.atoms, trace.why))
    trace.set(out, [*trace.axes(args[0])[:-2], channels, *map(fixed, out.shape[-2:])])


@rule("index", "_unsafe_index")
def index(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
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
    axes = list(trace.axes(args[0]))
    trace.freeze(axes[args[1]])
    axes[args[1]] = fixed(out.shape[args[1]])
    trace.set(out, axes)


@rule("embedding")
def embedding(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    trace.freeze(trace.axis(args[0], 0))
    trace.set(out, [*trace.axes(args[1]), trace.axis(args[0], 1)])


# ---- products ----


@rule("mm", "addmm")
def mm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    *bias, a, b = args[:3] if len(args) > 2 else args
    trace.unify(trace.axis(a, 1), trace.axis(b, 0))
    trace.set(out, [trace.axis(a, 0), trace.axis(b, 1)])
    trace.count(1, trace.axis(a, 0), trace.axis(a, 1), trace.axis(b, 1))
    if bias:
        pointwise(trace, (out, bias[0]), {}, out)


@rule("bmm", "baddbmm")
def bmm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
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
    trace.unify(trace.axis(args[0], -1), trace.axis(args[1], 0))
    trace.set(out, list(trace.axes(args[0])[:-1]))
    trace.count(1, *trace.axes(args[0]))


@rule("convolution")
def convolution(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, bias, *_, transposed, _, groups = args[:9]
    ins, outs = (0, 1) if transposed else (1, 0)
    why, trace.why = trace.why, "kernel of " + trace.why
    for dim in range(2, weight.ndim):
        trace.freeze(trace.axis(weight, dim))
    trace.why = why
    trace.groups = trace.atoms.new(groups)
    if groups > 1:  # the dimension of the weight that holds both groups and what is in them
        inner = trace.atoms.new(weight.shape[0] // groups)
        trace.unify(trace.axis(weight, 0), product([trace.groups, inner], trace.atoms, why))
        trace.atoms.mark(trace.groups, "group")
        for_in, for_out = (inner, trace.axis(weight, 1)) if transposed else (trace.axis(weight, 1), inner)
    else:
        for_in, for_out = trace.axis(weight, ins), trace.axis(weight, outs)
    trace.unify(trace.axis(x, 1), product([trace.groups, for_in], trace.atoms, why))
    channels = product([trace.groups, for_out], trace.atoms, why)
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
            trace.freeze(trace.axis(x, dim))
        axes.append(trace.axis(x, dim) if one else fixed(out.shape[dim]))
    return axes


def attention(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Scaled dot-product attention, softmax(q k^T * scale) v, on [..., heads, tokens, head size]."""
    q, k, v = args[:3]
    if kwargs.get("enable_gqa"):
        for axis in (trace.axis(t, -3) for t in (q, k, v)):
            trace.freeze(axis)
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
        why, trace.why = trace.why, f"scale of {trace.why}, which follows from the head size"
        trace.freeze(trace.axis(q, -1))
        trace.why = why
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


FUNCTIONS["scaled_dot_product_attention"] = attention


def recurrent(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """LSTM, GRU and plain recurrent layers. One state holds all layers' and directions' units, so they are tied."""
    x, state, weights, has_bias, layers, _, _, both_ways, batch_first = args
    states = [state] if isinstance(state, Tensor) else state
    unit = trace.axis(states[0], -1)
    ways = 2 if both_ways else 1
    per_way = 4 if has_bias else 2
    if len(weights) != layers * ways * per_way:
        raise NotImplementedError("recurrent layers with projections are not supported")
    for tensor in (x, *states, *weights):
        trace.note_use(tensor)
    for other in states[1:]:
        trace.unify(unit, trace.axis(other, -1))
    steps = product(trace.axes(x)[:-1], trace.atoms, trace.why)
    read = trace.axis(x, -1)
    for layer in range(layers):
        for way in range(ways):
            start = (layer * ways + way) * per_way
            from_input, from_state, *biases = weights[start : start + per_way]
            gates = fixed(from_input.shape[0] // states[0].shape[-1])
            rows = product([gates, unit], trace.atoms, trace.why)
            for tensor in (from_input, from_state, *biases):
                trace.unify(trace.axis(tensor, 0), rows)
            trace.unify(trace.axis(from_input, 1), read)
            trace.unify(trace.axis(from_state, 1), unit)
            trace.count(1, steps, rows, read)
            trace.count(1, steps, rows, unit)
        read = unit * ways
    trace.freeze(trace.axis(x, 1 if batch_first else 0))  # time mixes
    trace.set(out[0], [*trace.axes(x)[:-1], read])
    for tensor, like in zip(out[1:], states, strict=True):
        trace.set(tensor, list(trace.axes(like)))


FUNCTIONS.update(dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent))


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")  # fmt: skip
def fused_attention(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    attention(trace, args[:3], {"scale": kwargs.get("scale"), "attn_mask": kwargs.get("attn_mask")}, out[0])


# ---- normalisations: statistics over the units that stay are what «silenced» means ----


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, shape, *affine = args[:4]
    dims = range(-len(shape), 0)
    for parameter in affine:
        if isinstance(parameter, Tensor):
            for dim in dims:
                trace.unify(trace.axis(x, dim), trace.axis(parameter, dim))
    trace.set(out[0], list(trace.axes(x)))
    trace.norms.append(tuple(trace.axis(x, dim) for dim in dims))


@rule("native_group_norm")
def group_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, *affine, _, _, _, groups, _ = args
    channels = trace.axis(x, 1)
    trace.groups, inner = trace.atoms.new(groups), trace.atoms.new(x.shape[1] // groups)
    trace.unify(channels, product([trace.groups, inner], trace.atoms, trace.why))
    if groups > 1:
        trace.atoms.mark(trace.groups, "group")
    for parameter in affine:
        if parameter is not None:
            trace.unify(channels, trace.axis(parameter, 0))
    trace.set(out[0], list(trace.axes(x)))
    trace.norms.append((trace.groups, inner))


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_native_batch_norm_legit.no_stats", "_batch_norm_with_update", "_batch_norm_no_update")  # fmt: skip
def batch_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, *vectors = args[:5]
    for vector in vectors:
        if isinstance(vector, Tensor):
            trace.unify(trace.axis(x, 1), trace.axis(vector, 0))
    trace.set(out[0], list(trace.axes(x)))
    if next((a for a in args[1:] if isinstance(a, bool)), False):  # its own statistics: weight standardisation
        trace.norms.append(tuple(axis for dim, axis in enumerate(trace.axes(x)) if dim != 1))


# ---- reductions ----


def _reduced(x: Tensor, dims: Any) -> set[int]:
    """The dimensions that `dims` (a number, several, or None for all) means."""
    if dims is None or dims == []:
        return set(range(x.ndim))
    return {d % x.ndim for d in (dims if isinstance(dims, (list, tuple)) else [dims])} if x.ndim else set()


def _reduce(trace: Trace, x: Tensor, dims: Any, outs: Sequence[Any], freeze: bool) -> None:
    gone = _reduced(x, dims)
    axes = trace.axes(x)
    if freeze:
        for d in gone:
            trace.freeze(axes[d])
    for out in outs:
        keeps = out.ndim == x.ndim
        trace.set(out, [fixed(1) if d in gone else a for d, a in enumerate(axes) if keeps or d not in gone])


@rule("sum", "linalg_vector_norm", "norm")
def total(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Silent units add nothing to a sum or to a Euclidean norm."""
    is_norm = len(args) > 1 and isinstance(args[1], (int, float))
    euclidean = not is_norm or args[1] in (1, 2)
    dims = args[2] if is_norm and len(args) > 2 else None if is_norm or len(args) < 2 else args[1]
    _reduce(trace, args[0], dims, [out], freeze=not euclidean)


@rule("pow", "square")
def power(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    pointwise(trace, args, kwargs, out)
    exponent = args[1] if len(args) > 1 else 2
    if isinstance(exponent, (int, float)) and exponent == 2:
        trace.squares.add(id(out))


@rule("var", "var_mean", "std", "std_mean")
def norm_statistic(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """What norms written out in full divide by: like theirs, taken over the units that stay."""
    x, dims = args[0], _dims(args, kwargs)
    trace.norms.append(tuple(trace.axis(x, d) for d in sorted(_reduced(x, dims))))
    _reduce(trace, x, dims, out if isinstance(out, tuple) else [out], freeze=False)


@rule("mean")
def mean(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A mean of squares belongs to a norm; any other may be a feature of its own, so its units stay."""
    if id(args[0]) not in trace.squares:
        for d in _reduced(args[0], _dims(args, kwargs)):
            trace.freeze(trace.axis(args[0], d))
    norm_statistic(trace, args, kwargs, out)


@rule("amax", "amin", "logsumexp", "prod", "any", "all", "argmax")
def statistic(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _reduce(trace, args[0], _dims(args, kwargs), out if isinstance(out, tuple) else [out], freeze=True)


def _dims(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 and not isinstance(args[1], bool) else kwargs.get("dim")


@rule("max", "min")
def extremum(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
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
