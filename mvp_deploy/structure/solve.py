"""New values of the attributes that sizes were computed from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from mvp_deploy.structure.axes import Axis
from mvp_deploy.structure.sizes import Attribute, Formula, Observation, Origin, attributes, value_of


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
        if value_of(origin, values, measure) != size:
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
    inverse = _invert(origin.function, in_left, size, value_of(other, values, measure))
    if inverse is None:
        raise ValueError
    return _settle(inner, inverse, values, measure)


def _invert(function: Any, in_left: bool, size: int, other: int) -> int | None:
    """X such that function(x, other) == size, or function(other, x) == size; None if there is none."""
    if function is operator.add:
        return size - other
    if function is operator.sub:
        return size + other if in_left else other - size
    if function is operator.mul:
        return size // other if other and size % other == 0 else None
    return size * other if in_left else (other // size if size else None)
