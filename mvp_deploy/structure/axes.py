"""What the positions along one dimension of a tensor are made of.

An *atom* is a set of units that can be kept or removed one by one. An *axis* describes one dimension: a sum of
segments laid end to end, each segment a product of factors (major to minor), each factor an atom or a plain number.
The rows of a fused qkv weight, viewed as (3, heads, head size), are the single segment ``(3, H, D)``; the channels
of a concatenation are the two segments ``(A,), (B,)``. A plain number stands for positions that always stay: they
are *frozen*, and so need no identity.

Which axes are the same is kept in atoms.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(eq=False, slots=True)
class Atom:
    """A set of `size` units; once `axis` is set the atom is only another name for it."""

    size: int
    axis: Axis | None = None
    roles: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Reason:
    """Why positions must stay: the operator that ran, and in which module; or a sentence, with no module.

    `part`: what of the operator it is about.
    """

    what: str
    module: str | None = None  # '' is the model itself
    part: Literal["kernel", "scale"] | None = None
    note: str = ""

    def __str__(self) -> str:
        where = "" if self.module is None else f" in {self.module or 'the model'}"
        return f"{f'{self.part} of ' if self.part else ''}{self.what}{where}{self.note}"


class Still(int):
    """A number of positions that were units until something froze them."""

    why: Reason

    @classmethod
    def of(cls, size: int, why: Reason) -> Still:
        still = cls(size)
        still.why = why
        return still


Factor = Atom | int
Segment = tuple[Factor, ...]
Axis = tuple[Segment, ...]


def fixed(size: int) -> Axis:
    """An axis of `size` positions that always stay."""
    return ((size,),) if size != 1 else ((),)


def segment_size(segment: Segment) -> int:
    """Number of positions of a product of factors."""
    return math.prod(f if isinstance(f, int) else f.size for f in segment)


def axis_size(axis: Axis) -> int:
    """Number of positions along the unpruned axis."""
    return sum(segment_size(s) for s in axis)


def atoms_in(axis: Axis) -> Iterator[Atom]:
    """The atoms of an axis, in order."""
    return (f for segment in axis for f in segment if isinstance(f, Atom))


def keep_mask(axis: Axis, masks: dict[Atom, np.ndarray]) -> np.ndarray:
    """Boolean mask over the positions of a resolved `axis`: those all of whose units stay. Absent atoms stay whole."""
    parts = []
    for segment in axis:
        kept = np.ones(1, dtype=bool)
        for factor in segment:
            own = np.ones(factor, bool) if isinstance(factor, int) else masks.get(factor)
            own = np.ones(factor.size, bool) if own is None else own  # type: ignore[union-attr]
            kept = np.outer(kept, own).ravel()
        parts.append(kept)
    return np.concatenate(parts)


def kept_size(axis: Axis, counts: dict[Atom, int]) -> int:
    """Number of positions left of a resolved `axis` when each atom keeps its count; absent atoms stay whole."""
    return sum(math.prod(f if isinstance(f, int) else counts.get(f, f.size) for f in segment) for segment in axis)


def size_left(axis: Axis, counts: Mapping[Atom, int]) -> int | None:
    """Like `kept_size`, of an axis that need not be resolved; None if the count of one of its atoms is not known."""
    total = 0
    for segment in axis:
        sizes = [
            f if isinstance(f, int) else counts.get(f) if f.axis is None else size_left(f.axis, counts) for f in segment
        ]
        if None in sizes:
            return None
        total += math.prod(sizes)  # type: ignore[arg-type]
    return total


def unit_index(axis: Axis, atom: Atom) -> np.ndarray:
    """For each position of a resolved `axis`, the unit of `atom` it belongs to, or -1 (int64)."""
    parts = []
    for segment in axis:
        sizes = [f if isinstance(f, int) else f.size for f in segment]
        ids = np.full(segment_size(segment), -1)
        for place, factor in enumerate(segment):
            if factor is atom:
                shape = [n if i == place else 1 for i, n in enumerate(sizes)]
                ids = np.broadcast_to(np.arange(atom.size).reshape(shape), sizes).ravel()
        parts.append(ids)
    return np.concatenate(parts)


def reasons(axis: Axis) -> Iterator[Reason]:
    """Why parts of `axis` were frozen."""
    for factor in (f for segment in axis for f in segment):
        if isinstance(factor, Still):
            yield factor.why
        elif isinstance(factor, Atom) and factor.axis is not None:
            yield from reasons(factor.axis)


def number(size: int, *parts: Factor) -> int:
    """`size` positions made of `parts`, frozen for the first reason that any of them gives."""
    why = next(filter(None, map(why_still, parts)), None)
    return size if why is None else Still.of(size, why)


def why_still(factor: Factor) -> Reason | None:
    """Why a factor is frozen; None if it is not, or for no reason but its size."""
    return factor.why if isinstance(factor, Still) else None


def is_fixed(segment: Segment) -> bool:
    """Whether every position of a segment stays."""
    return all(isinstance(f, int) for f in segment)


def is_resolved(axis: Axis) -> bool:
    """Whether no atom of `axis` is bound and no two numbers could be one."""
    numbers = 0  # how many segments of nothing but a number end here
    for segment in axis:
        after_number = False
        atoms = 0
        for factor in segment:
            if isinstance(factor, int):
                if after_number or factor == 1:
                    return False
                after_number = True
            elif factor.axis is not None:
                return False
            else:
                after_number = False
                atoms += 1
        numbers = 0 if atoms else numbers + 1
        if numbers > 1:
            return False
    return True


def merge_numbers(segment: Segment) -> Segment:
    """Neighbouring numbers of a segment as one, without ones."""
    out: list[Factor] = []
    for factor in segment:
        if factor == 1 and isinstance(factor, int):
            continue
        if out and isinstance(factor, int) and isinstance(out[-1], int):
            out[-1] = number(out[-1] * factor, out[-1], factor)
        else:
            out.append(factor)
    return tuple(out)
