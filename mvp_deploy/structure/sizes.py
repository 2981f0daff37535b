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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mvp_deploy.structure.axes import Axis

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace


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


Pairs = Iterator[tuple[Any, Axis]]


@dataclass
class Uses:
    """What a model does with its sizes other than giving them to operators."""

    quantities: list[Origin] = field(default_factory=list)  # used as numbers: they must not change
    compared: list[Observation] = field(default_factory=list)


class Size(int):
    """An integer that remembers where it came from, and notes in `uses` when it is used as more than a size."""

    origin: Origin
    uses: Uses

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


def _origin(value: int) -> Origin:
    return value.origin if isinstance(value, Size) else int(value)


def _remember(function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Size, Any], Any]:
    def method(self: Size, other: Any) -> Any:
        if not isinstance(other, int):
            return function(other, int(self)) if swapped else function(int(self), other)
        left, right = (other, self) if swapped else (self, other)
        value = function(int(left), int(right))
        return Size.of(value, Formula(function, _origin(left), _origin(right)), self.uses)

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


def observe(
    trace: Trace, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> Iterator[Observation]:
    """What the sizes in one call stand for. A plain number stands for itself: its axis cannot get another size."""
    if function in _ARITHMETIC:
        trace.uses.quantities.extend(a.origin for a in args if isinstance(a, Size))
    for size, axis in sizes_given(trace, function, args, kwargs, out):
        yield Observation(_origin(size), axis, trace.module)


def sizes_given(trace: Trace, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    """The numbers among the arguments of a call that are sizes, and the axes they measure."""
    find = _SIZES.get(function)
    for size, axis in find(trace, args, kwargs, out) if find else ():
        if isinstance(size, int) and size >= 0:  # -1 stands for whatever is left
            yield size, axis


def sized_shape(trace: Trace, tensor: Tensor, shape: torch.Size | int, dim: int | None = None) -> Any:
    """What `Tensor.shape` or `Tensor.size(dim)` gave, as `Size`s that know their axes."""
    axes = trace.axes(tensor)
    if isinstance(shape, int):
        return Size.of(shape, axes[dim or 0], trace.uses)
    return torch.Size(Size.of(n, axis, trace.uses) for n, axis in zip(shape, axes, strict=True))


def _flat(args: tuple[Any, ...]) -> list[Any]:
    return list(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else list(args)


def _output_sizes(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    sizes = kwargs.get("size", kwargs.get("shape")) or _flat(args[1:])
    yield from zip(sizes, trace.axes(out), strict=False)


def _repeats(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    """How often one position is repeated is how many there are then."""
    times = kwargs.get("repeats") or _flat(args[1:])
    before = [1] * (out.ndim - args[0].ndim) + list(args[0].shape)
    yield from ((n, axis) for n, size, axis in zip(times, before, trace.axes(out), strict=True) if size == 1)


def _factory_sizes(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    yield from zip(kwargs.get("size") or _flat(args), trace.axes(out), strict=False)


def _unflatten(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    x, dim, sizes = args
    yield from zip(sizes, trace.axes(out)[dim % x.ndim :], strict=False)


def _normalized_shape(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    yield from zip(shape, trace.axes(args[0])[-len(shape) :], strict=True)


def _argument(place: int, name: str) -> Callable[..., Pairs]:
    """The number of groups of a grouped operator, its argument `name` at `place`."""

    def find(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
        yield (args[place] if len(args) > place else kwargs.get(name)), trace.groups

    return find


def _split(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    sizes = args[1] if len(args) > 1 else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    yield from zip(
        sizes if isinstance(sizes, (tuple, list)) else [sizes], (trace.axis(o, dim) for o in out), strict=False
    )


def _narrow(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    x, dim, start, length = args
    whole = trace.axis(x, dim)
    yield start, trace.atoms.cut(whole, 0, int(start), trace.why)
    yield length, trace.axis(out, dim)


def _slice(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    x, dim, *borders = args
    yield from _borders(trace, x, dim, slice(*borders))


def _getitem(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Pairs:
    x, index = args
    index = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [i for i in index if i is Ellipsis]:
        place = next(p for p, i in enumerate(index) if i is Ellipsis)
        used = sum(i is not None and i is not Ellipsis for i in index)
        index[place : place + 1] = [slice(None)] * (x.ndim - used)
    dim = 0
    for item in index:
        if item is None:
            continue
        if isinstance(item, slice):
            yield from _borders(trace, x, dim, item)
        dim += item.ndim if isinstance(item, Tensor) and item.dtype.is_floating_point is False else 1


def _borders(trace: Trace, x: Tensor, dim: int, item: slice) -> Pairs:
    """A border measures what lies before it, one counted from the end what lies behind it."""
    size = x.shape[dim]
    for border in (item.start, item.stop) if item.step in (None, 1) else ():
        if isinstance(border, int) and 0 < border <= size:
            yield border, trace.atoms.cut(trace.axis(x, dim), 0, int(border), trace.why)
        elif isinstance(border, int) and -size < border < 0:
            yield -border, trace.atoms.cut(trace.axis(x, dim), size + int(border), size, trace.why)


_ARITHMETIC = {"mul", "div", "true_divide", "add", "sub", "pow", "__mul__", "__truediv__", "__rmul__", "__rtruediv__"}

_SIZES: dict[str, Callable[..., Pairs]] = {
    **dict.fromkeys(("view", "reshape", "expand", "new_zeros", "new_ones", "new_full", "new_empty"), _output_sizes),
    **dict.fromkeys(("zeros", "ones", "empty", "full"), _factory_sizes),
    "repeat": _repeats,
    "unflatten": _unflatten,
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalized_shape),
    "group_norm": _argument(1, "num_groups"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _argument(6, "groups")),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _argument(6, "groups")),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "slice": _slice,
    "narrow": _narrow,
    "__getitem__": _getitem,
}


class Unsolvable(Exception):
    """A number would have to take two values at once."""

    def __init__(self, seen: Observation) -> None:
        names = sorted(str(a) for a in attributes(seen.origin))
        super().__init__(", ".join(names) or f"a size computed in the forward of {seen.module or 'the model'}")


def solve(wanted: Sequence[Observation], measure: Callable[[Axis], int]) -> dict[Attribute, int]:
    """New values of attributes such that every observed size measures its smaller axis.

    `measure` gives the new size of an axis. Attributes nothing is known of keep their value and are left out.

    Raises:
        Unsolvable: two sizes ask for different values of one attribute.
    """
    values: dict[Attribute, int] = {}
    pending = [seen for seen in wanted if not seen.compared]
    while pending:
        left = []
        for seen in pending:
            try:
                settled = _settle(seen.origin, measure(seen.axis), values, measure)
            except ValueError as error:
                raise Unsolvable(seen) from error
            if not settled:
                left.append(seen)
        if len(left) == len(pending):  # everywhere two unknowns: a count of heads or paths is likelier to stay
            unknown = {a for seen in left for a in attributes(seen.origin) if a not in values}
            stays = min(unknown, key=lambda a: (a.value, str(a)))
            values[stays] = stays.value
        pending = left
    for seen in wanted:
        if seen.compared and isinstance(seen.origin, Attribute):
            values.setdefault(seen.origin, measure(seen.axis))
    return values


def _settle(origin: Origin, size: int, values: dict[Attribute, int], measure: Callable[[Axis], int]) -> bool:
    """Solve origin == size, or raise ValueError if nothing does; False while there is more than one unknown."""
    unknown = {a for a in attributes(origin) if a not in values}
    if not unknown:
        if _value(origin, values, measure) != size:
            raise ValueError
        return True
    if isinstance(origin, Attribute):
        values[origin] = size
        return True
    if len(unknown) > 1 or not isinstance(origin, Formula):
        return False
    in_left = not unknown.isdisjoint(attributes(origin.left))
    inner, other = (origin.left, origin.right) if in_left else (origin.right, origin.left)
    if not unknown.isdisjoint(attributes(other)):
        return False  # the unknown stands on both sides
    inverse = _invert(origin.function, in_left, size, _value(other, values, measure))
    if inverse is None:
        raise ValueError
    return _settle(inner, inverse, values, measure)


def _invert(function: Any, in_left: bool, size: int, other: int) -> int | None:
    """x such that function(x, other) == size, or function(other, x) == size; None where there is none."""
    if function is operator.add:
        return size - other
    if function is operator.sub:
        return size + other if in_left else other - size
    if function is operator.mul:
        return size // other if other and size % other == 0 else None
    return size * other if in_left else (other // size if size else None)


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


def _value(origin: Origin, values: dict[Attribute, int], measure: Callable[[Axis], int]) -> int:
    if isinstance(origin, Attribute):
        return values[origin]
    if isinstance(origin, Formula):
        return origin.function(_value(origin.left, values, measure), _value(origin.right, values, measure))
    return measure(origin) if isinstance(origin, tuple) else origin
