"""What every operator does to axes.

A rule gets the trace, the operator's arguments and its output, and says which axes are the same (`unify`), which
cannot be taken apart (`freeze`) and what the output's dimensions are made of (`set`). Knowledge is per operator,
never per model. An operator without a rule freezes everything that touches it. To add one: write a function in the
file of its family, name its operators in the decorator, and add a model that uses it to the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from mvp_deploy.structure.rules import norms, parts, pointwise, products, recurrent, reductions, shapes, silent, windows
from mvp_deploy.structure.rules.registry import FUNCTIONS, OPERATORS, is_ours, is_pointwise, running_name

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace

__all__ = ["FUNCTIONS", "apply", "families", "running_name", "silent"]

families = (norms, parts, pointwise, products, recurrent, reductions, shapes, windows)  # imported, so registered


def apply(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Let the rule of `func` say what it did; without one, freeze whatever went in."""
    inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    for tensor in inputs:
        trace.note_use(tensor)
    name = func._schema.name.removeprefix("aten::")
    plain = name.removesuffix("_")  # in place or not makes no difference
    found = OPERATORS.get(name) or OPERATORS.get(plain)
    if found is None and is_pointwise(func, plain):
        found = pointwise.pointwise
    if found is not None:
        if not is_ours(found):
            trace.taught[name] = f"{found.__module__}.{found.__name__}"
        with trace.running(running_name(func), inputs, out):
            found(trace, args, kwargs, out)
            silent.follow(trace, plain, func, args, kwargs, out)
        return
    trace.not_understood(name, inputs, out, trace.why)
