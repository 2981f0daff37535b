"""Which axes are the same: a union-find over atoms.

Operators say which axes are the same. `Atoms.unify` makes them so, by binding atoms to finer descriptions. What cannot
be described exactly is frozen, so that the analysis prunes less, never wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mvp_deploy.structure.axes import (
    Atom,
    Axis,
    Segment,
    Still,
    atoms_in,
    axis_size,
    fixed,
    is_fixed,
    is_resolved,
    merge_numbers,
    number,
    reasons,
    segment_size,
    why_still,
)


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
        if is_resolved(axis):  # by far the most frequent
            return axis
        out: list[Segment] = []
        for segment in axis:
            for resolved in self._resolve_segment(segment):
                if out and is_fixed(out[-1]) and is_fixed(resolved):
                    both = segment_size(out[-1]) + segment_size(resolved)
                    out[-1] = (number(both, *out[-1], *resolved),)
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
        return [merge_numbers(head) for head in heads]

    def _split(self, segment: Segment, at: int, why: str) -> Axis:
        """Two segments, the first of size `at`; splits the major factor, or freezes the segment."""
        size = segment_size(segment)
        if not segment or is_fixed(segment):
            return ((number(at, *segment),), (number(size - at, *segment),))
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
        a, b = merge_numbers(a), merge_numbers(b)
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
                a, b = merge_numbers((*a[:-1], n // common)), merge_numbers((*b[:-1], m // common))
                continue
            elif isinstance(p, int) and n % m == 0:  # some of the positions that must stay
                self.freeze(((q,),), why_still(p) or why)
                a, b = (*a[:-1], number(n // m, p)), b[:-1]
            elif isinstance(q, int) and m % n == 0:
                self.freeze(((p,),), why_still(q) or why)
                a, b = a[:-1], (*b[:-1], number(m // n, q))
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


def product(axes: Sequence[Axis], atoms: Atoms, why: str) -> Axis:
    """The axis that flattening dimensions `axes` (major to minor) into one gives."""
    head, *rest = [axis for axis in axes if axis_size(axis) != 1] or [fixed(1)]
    tail: Segment = tuple(f for axis in rest for f in atoms.segment(axis, why))
    return atoms.resolve(tuple((*segment, *tail) for segment in atoms.resolve(head)))
