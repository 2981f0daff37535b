"""The calls that a forward makes. A smaller model must make the same ones, with the same numbers, on smaller tensors.

A size can leave the sight of the size tracker: ``1.0 / C`` is a float, ``if C > 12`` a branch. It then leads to other
numbers or other calls in the smaller model, which `SameCalls` sees before anything is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from numbers import Number
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mvp_deploy.structure.axes import Axis
from mvp_deploy.structure.observe import TAKES_SIZES


@dataclass(frozen=True)
class Call:
    """One call as the forward wrote it: the numbers it was given, sizes left out, and the axes of what it returned."""

    function: str
    module: str
    numbers: tuple[Any, ...]
    outputs: tuple[tuple[Axis, ...], ...]

    def __str__(self) -> str:
        return f"{self.function} in {self.module or 'the model'}"


class CallMode(TorchFunctionMode):
    """Hands every call of a forward to `call`, loops over a tensor as calls of `unbind`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__iter__":
            return iter(self.call(torch.Tensor.unbind, "unbind", args, {}))
        return self.call(func, name, args, kwargs or {})

    def call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError


PLAIN = (Number, str, bytes, type(None), torch.dtype, torch.device)
"""What a forward may return besides tensors."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, dictionaries and dataclasses."""
    return (leaf for leaf in leaves_in(value) if isinstance(leaf, Tensor))


def leaves_in(value: Any) -> Iterator[Any]:
    """What lies in nested tuples, lists, dictionaries (keys included) and dataclasses."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves_in(part)
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from leaves_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from leaves_in({field.name: getattr(value, field.name) for field in fields(value)})
    else:
        yield value


def numbers_given(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The plain numbers among the arguments of a call; where some are sizes, only those that cannot be."""
    kind: Any = float if name in TAKES_SIZES else Number
    return tuple(value for value in _leaves((args, kwargs)) if isinstance(value, kind))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


class OtherCalls(Exception):
    """The smaller model does not do what the full one does."""


class SameCalls(CallMode):
    """Follows a smaller model's forward and raises OtherCalls where it leaves the full model's `calls`.

    `measure` gives the new size of an axis, or None if that is not known.
    """

    def __init__(self, calls: Sequence[Call], measure: Callable[[Axis], int | None]) -> None:
        super().__init__()
        self.left, self.measure = iter(calls), measure

    def call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        tensors = list(tensors_in(out)) if isinstance(out, (Tensor, tuple, list)) else []
        if tensors or name == "__setitem__":
            self._compare(name, numbers_given(name, args, kwargs), tensors)
        return out

    def _compare(self, name: str, numbers: tuple[Any, ...], tensors: list[Tensor]) -> None:
        wanted = next(self.left, None)
        if wanted is None or _apart(wanted.function) != _apart(name) or len(wanted.outputs) != len(tensors):
            raise OtherCalls(f"calls {name} where the full model calls {wanted or 'nothing more'}")
        if not _same(numbers, wanted.numbers):
            given, was = next((n, w) for n, w in zip(numbers, wanted.numbers, strict=True) if not _same((n,), (w,)))
            raise OtherCalls(f"gives {wanted} the number {given:.6g}, the full model {was:.6g}")
        for tensor, axes in zip(tensors, wanted.outputs, strict=True):
            sizes = [self.measure(axis) for axis in axes]
            if len(sizes) != tensor.ndim or any(n not in (None, m) for n, m in zip(sizes, tensor.shape, strict=True)):
                raise OtherCalls(f"gets {list(tensor.shape)} from {wanted}, not {sizes}")

    def finish(self) -> None:
        """Raise OtherCalls if calls of the full model are still to come."""
        wanted = next(self.left, None)
        if wanted is not None:
            raise OtherCalls(f"ends where the full model goes on with {wanted}")


def _apart(function: str) -> str:
    """Its name as if it did not work in place: a module that comes to read a residual stream no longer may."""
    return function if function.endswith("__") else function.removesuffix("_")


def _same(numbers: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return len(numbers) == len(others) and all(
        a == b or (a != a and b != b) for a, b in zip(numbers, others, strict=True)
    )
