"""Which dimension a module's integer attribute stands for.

A timm attention keeps `num_heads`, a split keeps its sizes, a group norm its number of groups: plain numbers that
must change when units are removed. While a model is traced these numbers are `Size`s, integers that remember which
attribute they came from, through products, quotients and sums; what `Tensor.shape` gives are `Size`s too, and know
their axis. Where one is handed to an operator as a size, the operator says which axis it measures; after surgery the
attribute is set so that it measures the smaller axis. An attribute that is only ever compared with the size of an
axis, as in an assertion, follows that axis. A size that is used as a quantity, such as a head size in an attention's
scale, must not change: its axis is frozen.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mvp_deploy.structure.axes import Axis


@dataclass(frozen=True)
class Attribute:
    """The number at `module.name`, or at `module.name[index]` where that is a tuple or list, and its present value."""

    module: str
    name: str
    index: int | None = None
    value: int = field(default=0, compare=False)

    def __str__(self) -> str:
        place = "" if self.index is None else f"[{self.index}]"
        return f"{self.module}.{self.name}{place}".strip(".")


@dataclass(frozen=True)
class Formula:
    """How a number was computed: `function(left, right)`."""

    function: Callable[[int, int], int]
    left: Origin
    right: Origin


Origin = Attribute | Formula | Axis | int  # an axis stands for its size, an int for itself


@dataclass(frozen=True)
class Observation:
    """`origin` was given to an operator in `module` as the size of `axis`, or just `compared` with it."""

    origin: Origin
    axis: Axis
    module: str = ""
    compared: bool = False


@dataclass
class Uses:
    """What a model does with its sizes other than giving them to operators."""

    quantities: list[Origin] = field(default_factory=list)  # used as numbers: they must not change
    compared: list[Observation] = field(default_factory=list)


class Size(int):
    """An integer that remembers where it came from, and notes in `uses` when it is used as more than a size."""

    origin: Origin
    uses: Uses
    told_by: tuple[Any, ...] = ()  # what it was read from: a tensor and a dimension; or a function and its two operands

    @classmethod
    def of(cls, value: int, origin: Origin, uses: Uses) -> Size:
        size = cls(value)
        size.origin, size.uses = origin, uses
        return size

    def __deepcopy__(self, memo: dict[int, Any]) -> Size:
        return self

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) is True
        if equal and isinstance(other, Size):
            for one, two in ((self.origin, other.origin), (other.origin, self.origin)):
                if isinstance(one, Attribute) and isinstance(two, tuple):
                    self.uses.compared.append(Observation(one, two, compared=True))
        return equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __neg__(self) -> Size:
        return Size.of(-int(self), Formula(operator.sub, 0, self.origin), self.uses)

    def __float__(self) -> float:
        self.uses.quantities.append(self.origin)
        return float(int(self))

    def __pow__(self, power: Any, modulo: Any = None) -> Any:
        self.uses.quantities.append(self.origin)
        return pow(int(self), power, modulo)

    def __truediv__(self, other: Any) -> Any:
        self.uses.quantities.append(self.origin)
        return int(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        self.uses.quantities.append(self.origin)
        return other / int(self)


def origin_of(value: int) -> Origin:
    """Where a number came from; a plain one stands for itself."""
    return value.origin if isinstance(value, Size) else int(value)


def _remember(function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Size, Any], Any]:
    def method(self: Size, other: Any) -> Any:
        if not isinstance(other, int):
            return function(other, int(self)) if swapped else function(int(self), other)
        left, right = (other, self) if swapped else (self, other)
        size = Size.of(function(int(left), int(right)), Formula(function, origin_of(left), origin_of(right)), self.uses)
        size.told_by = function, left, right
        return size

    return method


for _name in ("add", "sub", "mul", "floordiv"):
    setattr(Size, f"__{_name}__", _remember(getattr(operator, _name), swapped=False))
    setattr(Size, f"__r{_name}__", _remember(getattr(operator, _name), swapped=True))


def tag_sizes(model: nn.Module, uses: Uses) -> None:
    """Replace the integers among the attributes of `model`'s modules, alone or in tuples and lists, by `Size`s."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if type(value) is int:
                vars(module)[name] = Size.of(value, Attribute(path, name, value=value), uses)
            elif type(value) in (tuple, list) and any(type(v) is int for v in value):
                vars(module)[name] = type(value)(
                    v if type(v) is not int else Size.of(v, Attribute(path, name, i, v), uses)
                    for i, v in enumerate(value)
                )


def attributes(origin: Origin) -> set[Attribute]:
    """The attributes that a number was computed from."""
    if isinstance(origin, Attribute):
        return {origin}
    if isinstance(origin, Formula):
        return attributes(origin.left) | attributes(origin.right)
    return set()


def measured(origin: Origin) -> Iterator[Axis]:
    """The axes whose sizes a number was computed from."""
    if isinstance(origin, Formula):
        yield from measured(origin.left)
        yield from measured(origin.right)
    elif isinstance(origin, tuple):
        yield origin


def value_of(origin: Origin, values: dict[Attribute, int], measure: Callable[[Axis], int]) -> int:
    """What a number computed from these attributes and axes is now."""
    if isinstance(origin, Attribute):
        return values[origin]
    if isinstance(origin, Formula):
        return origin.function(value_of(origin.left, values, measure), value_of(origin.right, values, measure))
    return measure(origin) if isinstance(origin, tuple) else origin
