"""A call's arguments in their places: keywords bound to the function's signature, so that no rule looks for both."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

_NAMES = {"self": "input", "tensor": "input", "axis": "dim", "keepdims": "keepdim"}
"""Other names of arguments: a schema calls an operator's input self, and many functions take NumPy's names."""
_REQUIRED: Any = object()


@dataclass(frozen=True)
class _Signature:
    places: dict[str, Any]  # arguments that can be given by position, in order, and their defaults
    keywords: frozenset[str]  # those that cannot


def bound(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call, with every argument that has a place in it.

    Of an operator's overloads the first that takes these arguments counts; a call that fits none stays as it is.

    Example:
        >>> x = torch.zeros(2, 6)
        >>> bound(torch.narrow, (x,), {"length": 2, "start": 1, "dim": 1})[0][1:]
        (1, 1, 2)
    """
    if not kwargs:
        return args, kwargs
    given = {_NAMES.get(name, name): value for name, value in kwargs.items()}
    for signature in _signatures(function):
        open_places = list(signature.places)[len(args) :]
        placed = [name for name in open_places if name in given]
        if len(args) > len(signature.places) or given.keys() - placed - signature.keywords:
            continue
        last = open_places.index(placed[-1]) + 1 if placed else 0
        values = [given.get(name, signature.places[name]) for name in open_places[:last]]
        if not any(value is _REQUIRED for value in values):
            return (*args, *values), {name: v for name, v in kwargs.items() if name in signature.keywords}
    return args, kwargs


@cache
def _signatures(function: Any) -> list[_Signature]:
    """Of a Python function its own; of a built-in one those of the operator of that name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        packet = getattr(torch.ops.aten, getattr(function, "__name__", ""), None)
        schemas = [getattr(packet, name)._schema for name in packet.overloads()] if packet is not None else []
        return [_of_schema(schema) for schema in schemas]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return []
    places = {p.name: _REQUIRED if p.default is p.empty else p.default for p in parameters if p.kind != p.KEYWORD_ONLY}
    return [_Signature(_named(places), frozenset(p.name for p in parameters if p.kind == p.KEYWORD_ONLY))]


def _of_schema(schema: Any) -> _Signature:
    places = {
        a.name: a.default_value if a.has_default_value() else _REQUIRED for a in schema.arguments if not a.kwarg_only
    }
    keywords = {a.name for a in schema.arguments if a.kwarg_only}
    if "dtype" in keywords:  # a factory, which Python lets ask for gradients too
        keywords |= {"requires_grad", "out"}
    return _Signature(_named(places), frozenset(keywords))


def _named(places: dict[str, Any]) -> dict[str, Any]:
    return {_NAMES.get(name, name): default for name, default in places.items()}
