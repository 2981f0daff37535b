"""What the positions along one dimension of a tensor are made of.

An *atom* is a set of units that can be kept or removed one by one. An *axis* describes one dimension: a sum of
segments laid end to end, each segment a product of factors (major to minor), each factor an atom or a plain number.
The rows of a fused qkv weight, viewed as (3, heads, head size), are the single segment ``(3, H, D)``; the channels
of a concatenation are the two segments ``(A,), (B,)``. A plain number stands for positions that always stay: they
are *frozen*, and so need no identity.

Operators say which axes are the same. `Atoms.unify` makes them so, by binding atoms to finer descriptions in a
union-find. What cannot be described exactly is frozen, so that the analysis prunes less, never wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False, slots=True)
class Atom:
    """A set of `size` units; once `axis` is set the atom is only another name for it."""

    size: int
    axis: Axis | None = None
    roles: set[str] = field(default_factory=set)


class Still(int):
    """A number of positions that were units until something, told by `why`, froze them."""

    why: str

    @classmethod
    def of(cls, size: int, why: str) -> Still:
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
    return math.prod(f if isinstance(f, int) else f.size for f in segment)


def axis_size(axis: Axis) -> int:
    """Number of positions along the unpruned axis."""
    return sum(segment_size(s) for s in axis)


def atoms_in(axis: Axis) -> Iterator[Atom]:
    return (f for segment in axis for f in segment if isinstance(f, Atom))


def product(axes: Sequence[Axis], atoms: Atoms, why: str) -> Axis:
    """The axis that flattening dimensions `axes` (major to minor) into one gives."""
    head, *rest = [axis for axis in axes if axis_size(axis) != 1] or [fixed(1)]
    tail: Segment = tuple(f for axis in rest for f in atoms.segment(axis, why))
    return atoms.resolve(tuple((*segment, *tail) for segment in atoms.resolve(head)))


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


class Atoms:
    """The union-find: makes atoms, binds them to finer axes, freezes what cannot be told apart exactly."""

    def new(self, size: int) -> Axis:
        """A dimension of `size` units nothing is known of yet."""
        return ((Atom(size),),) if size > 1 else fixed(size)

    def freeze(self, axis: Axis, why: str) -> None:
        """Keep every unit of `axis`, because of `why` (shown to the user)."""
        for atom in list(atoms_in(self.resolve(axis))):
            if atom.axis is None:
                atom.axis = ((Still.of(atom.size, why),),)

    def mark(self, axis: Axis, role: str) -> None:
        """Note that the atoms of `axis` play `role` ('head', 'head_dim', …) somewhere."""
        for atom in atoms_in(self.resolve(axis)):
            atom.roles.add(role)

    def resolve(self, axis: Axis) -> Axis:
        """`axis` in terms of unbound atoms and numbers, runs of numbers merged."""
        if _is_resolved(axis):  # by far the most frequent
            return axis
        out: list[Segment] = []
        for segment in axis:
            for resolved in self._resolve_segment(segment):
                if out and _is_fixed(out[-1]) and _is_fixed(resolved):
                    both = segment_size(out[-1]) + segment_size(resolved)
                    out[-1] = (_number(both, *out[-1], *resolved),)
                else:
                    out.append(resolved)
        return tuple(out)

    def segment(self, axis: Axis, why: str) -> Segment:
        """`axis` as one product; a sum cannot be a minor factor of a product, so it is frozen."""
        resolved = self.resolve(axis)
        if len(resolved) > 1:
            self.freeze(resolved, why)
            return self.resolve(resolved)[0]
        return resolved[0]

    def unify(self, x: Axis, y: Axis, why: str) -> None:
        """Make two axes of equal size one and the same; where they cannot be, freeze both.

        Each turn of the loop strips what already agrees, or binds or freezes one atom, so it ends.
        """
        x, y = self.resolve(x), self.resolve(y)
        if axis_size(x) != axis_size(y):
            self.freeze(x, why)
            self.freeze(y, why)
            return
        while x != y:
            a, b = x[0], y[0]
            if a == b:
                x, y = x[1:], y[1:]
            elif not any(atoms_in(x)):
                self.freeze(y, next(reasons(x), why))
                return
            elif not any(atoms_in(y)):
                self.freeze(x, next(reasons(y), why))
                return
            elif segment_size(a) == segment_size(b):
                self._unify_segments(a, b, why)
                x, y = x[1:], y[1:]
            elif segment_size(a) < segment_size(b):
                y = self._split(b, segment_size(a), why) + y[1:]
            else:
                x = self._split(a, segment_size(b), why) + x[1:]
            x, y = self._resolve_each(x), self._resolve_each(y)

    def cut(self, axis: Axis, start: int, stop: int, why: str) -> Axis:
        """The part [start, stop) of an axis (a slice); atoms that straddle an end are split there, or frozen."""
        out: list[Segment] = []
        position, rest = 0, self._resolve_each(axis)
        while rest and position < stop:
            segment, size = rest[0], segment_size(rest[0])
            border = next((p - position for p in (start, stop) if position < p < position + size), None)
            if border is not None:
                rest = self._resolve_each(self._split(segment, border, why) + rest[1:])
                continue
            if position >= start:
                out.append(segment)
            position, rest = position + size, rest[1:]
        return self.resolve(tuple(out)) if out else ((0,),)

    def _resolve_each(self, axis: Axis) -> Axis:
        """Like `resolve`, but neighbouring numbers stay apart, so that borders just made are not lost."""
        return tuple(s for segment in axis for s in self._resolve_segment(segment))

    def _resolve_segment(self, segment: Segment) -> list[Segment]:
        heads: list[Segment] = [()]
        for place, factor in enumerate(segment):
            if isinstance(factor, int):
                expanded: Axis = ((factor,),)
            elif factor.axis is None:
                expanded = ((factor,),)
            else:
                expanded = factor.axis = self.resolve(factor.axis)
            if place > 0 and len(expanded) > 1:
                self.freeze(expanded, "a part of a dimension is taken apart inside a product of dimensions")
                expanded = self.resolve(expanded)
            heads = [(*head, *end) for end in expanded for head in heads] if place else list(expanded)
        return [_merge_numbers(head) for head in heads]

    def _split(self, segment: Segment, at: int, why: str) -> Axis:
        """Two segments, the first of size `at`; splits the major factor, or freezes the segment."""
        size = segment_size(segment)
        if not segment or _is_fixed(segment):
            return ((_number(at, *segment),), (_number(size - at, *segment),))
        major, minor = segment[0], segment[1:]
        rest = segment_size(minor)
        if at % rest:
            self.freeze((segment,), why)
            return ((at,), (size - at,))
        first, second = at // rest, (size - at) // rest
        if isinstance(major, int):
            return ((first, *minor), (second, *minor))
        head, tail = self.new(first), self.new(second)
        major.axis = head + tail
        return ((*head[0], *minor), (*tail[0], *minor))

    def _unify_segments(self, a: Segment, b: Segment, why: str) -> None:
        """Make two products of equal size the same, comparing factors from the minor end."""
        a, b = _merge_numbers(a), _merge_numbers(b)
        while a != b:
            if not a or not b or (len(a) == 1 and isinstance(a[0], int)) or (len(b) == 1 and isinstance(b[0], int)):
                self.freeze((a,), why)
                self.freeze((b,), why)
                return
            if len(a) == 1 and isinstance(a[0], Atom) and a[0] not in b:
                self._bind(a[0], (b,))
                return
            if len(b) == 1 and isinstance(b[0], Atom) and b[0] not in a:
                self._bind(b[0], (a,))
                return
            p, q = a[-1], b[-1]
            n, m = (f if isinstance(f, int) else f.size for f in (p, q))
            if p == q:
                a, b = a[:-1], b[:-1]
            elif isinstance(p, int) and isinstance(q, int):
                common = math.gcd(n, m)
                if common == 1:
                    self.freeze((a, b), why)
                    return
                a, b = _merge_numbers((*a[:-1], n // common)), _merge_numbers((*b[:-1], m // common))
                continue
            elif isinstance(p, int) and n % m == 0:  # some of the positions that must stay
                self.freeze(((q,),), _why(p) or why)
                a, b = (*a[:-1], _number(n // m, p)), b[:-1]
            elif isinstance(q, int) and m % n == 0:
                self.freeze(((p,),), _why(q) or why)
                a, b = a[:-1], (*b[:-1], _number(m // n, q))
            elif n == m:
                self.unify(((p,),), ((q,),), why)
                a, b = a[:-1], b[:-1]
            elif n > m and n % m == 0 and isinstance(p, Atom):
                self._bind(p, ((*self.new(n // m)[0], q),))
            elif m > n and m % n == 0 and isinstance(q, Atom):
                self._bind(q, ((*self.new(m // n)[0], p),))
            else:
                self.freeze((a, b), why)
                return
            a, b = self._one(a, why), self._one(b, why)

    def _one(self, segment: Segment, why: str) -> Segment:
        """`segment` resolved; if it has meanwhile become a sum, frozen."""
        resolved = self._resolve_segment(segment)
        if len(resolved) == 1:
            return resolved[0]
        self.freeze(tuple(resolved), why)
        return self.resolve(tuple(resolved))[0]

    def _bind(self, atom: Atom, axis: Axis) -> None:
        if len(axis) == 1 and len(axis[0]) == 1 and isinstance(axis[0][0], Atom):
            axis[0][0].roles |= atom.roles
        atom.axis = axis


def reasons(axis: Axis) -> Iterator[str]:
    """Why parts of `axis` were frozen."""
    for factor in (f for segment in axis for f in segment):
        if isinstance(factor, Still):
            yield factor.why
        elif isinstance(factor, Atom) and factor.axis is not None:
            yield from reasons(factor.axis)


def _number(size: int, *parts: Factor) -> int:
    """`size` positions made of `parts`, frozen for the first reason that any of them gives."""
    why = next(filter(None, map(_why, parts)), None)
    return size if why is None else Still.of(size, why)


def _why(factor: Factor) -> str | None:
    return factor.why if isinstance(factor, Still) else None


def _is_fixed(segment: Segment) -> bool:
    return all(isinstance(f, int) for f in segment)


def _is_resolved(axis: Axis) -> bool:
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


def _merge_numbers(segment: Segment) -> Segment:
    out: list[Factor] = []
    for factor in segment:
        if factor == 1 and isinstance(factor, int):
            continue
        if out and isinstance(factor, int) and isinstance(out[-1], int):
            out[-1] = _number(out[-1] * factor, out[-1], factor)
        else:
            out.append(factor)
    return tuple(out)
