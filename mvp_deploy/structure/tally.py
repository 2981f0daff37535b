"""What a model costs when its groups keep so many units each, and what one group's next cut would save.

Costs are sums of products of sizes, so that what a group saves depends on its neighbours: fewer input channels make
every output channel cheaper. A tally looks only at the terms that a group is part of.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from mvp_deploy.structure.axes import Atom, Axis, atoms_in, kept_size

if TYPE_CHECKING:
    from mvp_deploy.structure.structure import Structure

Counts = Mapping[str, int]  # group name -> units kept; absent groups keep all


class Tally:
    """Multiply-accumulates for one input, or parameters, as a function of how many units each group keeps."""

    def __init__(self, structure: Structure, of: Literal["macs", "params"]) -> None:
        batch = max(structure.example[0].shape[0], 1) if structure.example[0].ndim else 1
        if of == "macs":
            self._terms = [(term.factor / batch, term.axes) for term in structure._macs]
        else:
            self._terms = [(1.0, structure.axes[name]) for name in structure._parameters]
        self._atoms = dict(structure._atoms)
        names = {atom: name for name, atom in self._atoms.items()}
        self._of_group: dict[str, list[int]] = defaultdict(list)
        self._neighbours: dict[str, set[str]] = defaultdict(set)
        for place, (_, axes) in enumerate(self._terms):
            inside = {names[atom] for axis in axes for atom in atoms_in(axis) if atom in names}
            for name in inside:
                self._of_group[name].append(place)
                self._neighbours[name] |= inside

    def total(self, counts: Counts) -> float:
        """The whole model's cost."""
        return self._sum(range(len(self._terms)), counts)

    def saving(self, counts: Counts, group: str, fewer: int) -> float:
        """What is saved if ``group`` keeps ``fewer`` units than ``counts`` says and all others stay as they are."""
        places = self._of_group[group]
        return self._sum(places, counts) - self._sum(places, {**counts, group: fewer})

    def neighbours(self, group: str) -> set[str]:
        """The groups whose savings change with this group's size, itself included."""
        return self._neighbours[group] | {group}

    def _sum(self, places: Iterable[int], counts: Counts) -> float:
        by_atom: dict[Atom, int] = {self._atoms[name]: count for name, count in counts.items()}
        sizes: dict[Axis, int] = {}

        def size(axis: Axis) -> int:
            if axis not in sizes:
                sizes[axis] = kept_size(axis, by_atom)
            return sizes[axis]

        return sum(self._terms[place][0] * math.prod(map(size, self._terms[place][1])) for place in places)
