"""Where rules are kept, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace

Rule = Callable[["Trace", tuple[Any, ...], dict[str, Any], Any], None]

OPERATORS: dict[str, Rule] = {}
"""By ATen name, without namespace; 'add' stands for 'add_' too."""

FUNCTIONS: dict[str, Rule] = {}
"""By the name of the Python function: those that are kept whole instead of taken apart into operators."""


_UNTAGGED_POINTWISE = {"hardswish", "hardsigmoid", "hardtanh", "mish", "silu", "leaky_relu", "relu6", "elu"}


def is_ours(rule: Rule) -> bool:
    """Whether a rule is one of this package, not taught from outside."""
    return rule.__module__.startswith(f"{__package__}.")


def is_pointwise(func: Any, name: str) -> bool:
    """Whether operator `func` (its `name` without the underscore of in-place forms) treats every position the same."""
    return torch.Tag.pointwise in getattr(func, "tags", ()) or name in _UNTAGGED_POINTWISE


def running_name(func: Any) -> str:
    """The name by which an operator's runs are counted; which of the batch norms runs depends on the device."""
    name = func._schema.name.removeprefix("aten::")
    return "batch_norm" if name.endswith("batch_norm") else name


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of operators.

    The function is called as ``rule(trace, args, kwargs, out)`` whenever one of them runs on tensors without values,
    and tells the `Trace` which dimensions are the same (`Trace.unify`), which cannot lose units (`Trace.freeze`) and
    what the output's dimensions are made of (`Trace.set`). A rule that raises, or describes other sizes than the
    output has, freezes what went in.

    Args:
        *operators: ``torch.ops.namespace.name``, or the names of ATen's own operators, such as ``"mm"``.

    Returns:
        A decorator that gives the function back unchanged.
    """
    return _register(OPERATORS, tuple(map(_operator_name, operators)))


def _operator_name(operator: Any) -> str:
    if isinstance(operator, torch._ops.OpOverload):
        operator = operator.overloadpacket
    name = operator if isinstance(operator, str) else operator._qualified_op_name
    return str(name).removeprefix("aten::")


def function_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of Python functions, which are then not taken apart.

    Args:
        *names: of functions that PyTorch's modules call, such as ``"scaled_dot_product_attention"``.

    Returns:
        A decorator that gives the function back unchanged.
    """
    return _register(FUNCTIONS, names)


def _register(where: dict[str, Rule], names: tuple[str, ...]) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        where.update(dict.fromkeys(names, function))
        return function

    return register
