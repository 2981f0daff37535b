"""Recurrent layers, kept whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mvp_deploy.structure.axes import fixed
from mvp_deploy.structure.rules.registry import function_rule

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


@function_rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """LSTM, GRU and plain recurrent layers. One state holds all layers' and directions' units, so they are tied."""
    x, state, weights, has_bias, layers, _, _, both_ways, batch_first = args
    states = [state] if isinstance(state, Tensor) else state
    unit = trace.axis(states[0], -1)
    ways = 2 if both_ways else 1
    per_way = 4 if has_bias else 2
    for tensor in (x, *states, *weights):
        trace.note_use(tensor)
    if len(weights) != layers * ways * per_way:  # projections: the two states differ in size
        for axis in (axis for tensor in (x, *states, *weights) for axis in trace.axes(tensor)):
            trace.freeze(axis)
        trace.unknown["lstm with projections"] = trace.unknown.get("lstm with projections", 0) + 1
        return
    for other in states[1:]:
        trace.unify(unit, trace.axis(other, -1))
    steps = trace.product(*trace.axes(x)[:-1])
    read = trace.axis(x, -1)
    for layer in range(layers):
        for way in range(ways):
            start = (layer * ways + way) * per_way
            from_input, from_state, *biases = weights[start : start + per_way]
            gates = fixed(from_input.shape[0] // states[0].shape[-1])
            rows = trace.product(gates, unit)
            for tensor in (from_input, from_state, *biases):
                trace.unify(trace.axis(tensor, 0), rows)
            trace.unify(trace.axis(from_input, 1), read)
            trace.unify(trace.axis(from_state, 1), unit)
            trace.count(1, steps, rows, read)
            trace.count(1, steps, rows, unit)
        read = unit + unit if both_ways else unit  # the directions' units, end to end
    trace.freeze(trace.axis(x, 1 if batch_first else 0))  # time mixes
    trace.set(out[0], [*trace.axes(x)[:-1], read])
    for tensor, like in zip(out[1:], states, strict=True):
        trace.set(tensor, list(trace.axes(like)))
