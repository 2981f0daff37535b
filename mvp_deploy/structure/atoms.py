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
    Reason,
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

    def freeze(self, axis: Axis, why: Reason) -> None:
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

    def segment(self, axis: Axis, why: Reason) -> Segment:
        """`axis` as one product; a sum cannot be a minor factor of a product, so it is frozen."""
        resolved = self.resolve(axis)
        if len(resolved) > 1:
            self.freeze(resolved, why)
            return self.resolve(resolved)[0]
        return resolved[0]

    def unify(self, x: Axis, y: Axis, why: Reason) -> None:
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

    def cut(self, axis: Axis, start: int, stop: int, why: Reason) -> Axis:
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
                self.freeze(expanded, Reason("a part of a dimension is taken apart inside a product of dimensions"))
                expanded = self.resolve(expanded)
            heads = [(*head, *end) for end in expanded for head in heads] if place else list(expanded)
        return [merge_numbers(head) for head in heads]

    def _split(self, segment: Segment, at: int, why: Reason) -> Axis:
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

    def _unify_segments(self, a: Segment, b: Segment, why: Reason) -> None:
        """Make two products of equal size the same, comparing factors from the minor end.

        case                     example                      what happens
        a lone atom              x:24 = (3, h:8)              x is another name for 3 x h
        the same factor          (3, h) = (g:3, h)            go on with 3 = g
        two numbers              (g, 6) = (h, 4)              they lose their common factor: (g, 3) = (h, 2)
        a number covers an atom  (g, 12) = (h, x:4)           x stays whole: go on with (g, 3) = h
        atoms of one size        (g, x:4) = (h, y:4)          x and y are the same: go on with g = h
        an atom covers a factor  (g, x:12) = (h, y:4)         x is new:3 x y, and y the same factor
        nothing fits             (g, x:6) = (h, y:4)          all stay whole
        """
        a, b = merge_numbers(a), merge_numbers(b)
        while a != b:
            if any(not one or (len(one) == 1 and isinstance(one[0], int)) for one in (a, b)):
                self.freeze((a, b), why)
                return
            for one, other in ((a, b), (b, a)):
                if len(one) == 1 and isinstance(one[0], Atom) and one[0] not in other:
                    self._bind(one[0], (other,))
                    return
            if _minor(a) < _minor(b):
                a, b = b, a
            p, q = a[-1], b[-1]
            (n, _), (m, _) = _minor(a), _minor(b)
            if p == q:
                a, b = a[:-1], b[:-1]
            elif isinstance(p, int) and isinstance(q, int):
                common = math.gcd(n, m)
                if common == 1:
                    self.freeze((a, b), why)
                    return
                a, b = merge_numbers((*a[:-1], n // common)), merge_numbers((*b[:-1], m // common))
            elif isinstance(p, int) and n % m == 0:
                self.freeze(((q,),), why_still(p) or why)
                a, b = (*a[:-1], number(n // m, p)), b[:-1]
            elif n == m:
                self.unify(((p,),), ((q,),), why)
                a, b = a[:-1], b[:-1]
            elif n % m == 0 and isinstance(p, Atom):
                self._bind(p, ((*self.new(n // m)[0], q),))
            else:
                self.freeze((a, b), why)
                return
            a, b = self._one(a, why), self._one(b, why)

    def _one(self, segment: Segment, why: Reason) -> Segment:
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


def _minor(segment: Segment) -> tuple[int, bool]:
    """The size of the minor factor, and whether it is a number: of two factors of one size, numbers come first."""
    last = segment[-1]
    return (last, True) if isinstance(last, int) else (last.size, False)


def product(axes: Sequence[Axis], atoms: Atoms, why: Reason) -> Axis:
    """The axis that flattening dimensions `axes` (major to minor) into one gives."""
    head, *rest = [axis for axis in axes if axis_size(axis) != 1] or [fixed(1)]
    tail: Segment = tuple(f for axis in rest for f in atoms.segment(axis, why))
    return atoms.resolve(tuple((*segment, *tail) for segment in atoms.resolve(head)))
