"""Milliseconds as the cost of a plan, beside MACs and parameters (`mvp_deploy.pruning.knapsack.Cost`)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mvp_deploy.base.errors import InputError
from mvp_deploy.latency.floor import BelowFloor
from mvp_deploy.latency.format import Profile, Shape
from mvp_deploy.latency.model import LatencyModel, fit
from mvp_deploy.latency.pieces import layout
from mvp_deploy.pruning.budget import Budget, allowed_counts
from mvp_deploy.structure import Structure
from mvp_deploy.structure.axes import Axis, atoms_in, fixed, kept_size


@dataclass(frozen=True)
class ByProfile:
    """Milliseconds as what a budget is of, before there is a structure.

    known: other profiles; where no cut meets the time, the error names one whose backbone does.
    """

    profile: Profile
    known: Sequence[Profile] = ()

    @property
    def key(self) -> str:
        """Of what it goes by."""
        return str(self.profile)

    def of(self, structure: Structure) -> Milliseconds:
        """Of a backbone."""
        return Milliseconds(structure, self.profile)

    def require_reachable(self, structure: Structure, budget: Budget) -> None:
        """Raise BelowFloor if even the smallest counts take longer than the budget, a share of the unpruned time."""
        cost, full = self.of(structure), self.profile.full_ms
        floor = cost.floor(budget.round_to) / cost.total({group.name: group.size for group in structure.groups})
        if floor > budget.fraction:
            raise BelowFloor(budget.fraction * full, floor * full, "").beside(self.profile, self.known)


class Milliseconds:
    """What a profile says a model takes, as a function of how many units each group keeps.

    Args:
        structure: of the unpruned model.
        profile: of that backbone at that image size.

    Raises:
        MvpError: the profile is of another backbone or image size; the sentence names both.
    """

    def __init__(self, structure: Structure, profile: Profile) -> None:
        fits(structure, profile)
        self._structure = structure
        self.model: LatencyModel = fit(profile)
        names = {atom: name for name, atom in structure._atoms.items()}
        self._atoms = dict(structure._atoms)
        self._axes = [_matrix(structure.axes[weight]) for weight in self.model.weights]
        self._groups = [sorted({names[atom] for axis in pair for atom in atoms_in(axis)}) for pair in self._axes]
        self._set(())

    def _set(self, without: Collection[str]) -> None:
        tensors = self._structure.gone(without)
        self._gone = frozenset(number for number, weight in enumerate(self.model.weights) if weight in tensors)
        self.groups = [  # of each layer, those its time depends on
            [] if number in self._gone else groups for number, groups in enumerate(self._groups)
        ]
        self._layers: dict[str, list[int]] = {name: [] for name in self._structure._atoms}
        for number, groups in enumerate(self.groups):
            for name in groups:
                self._layers[name].append(number)

    def without(self, blocks: Collection[str]) -> Milliseconds:
        """The same with these blocks removed whole: their layers take no time."""
        other = copy.copy(self)
        other._set(blocks)
        return other

    def total(self, counts: Mapping[str, int]) -> float:
        """Milliseconds of the whole model."""
        return self.model.overhead + self._sum(range(len(self._axes)), counts)

    def floor(self, round_to: int) -> float:
        """Milliseconds of the smallest counts of all groups."""
        return self.total({g.name: int(allowed_counts(g, round_to)[0]) for g in self._structure.groups})

    def saving(self, counts: Mapping[str, int], group: str, fewer: int) -> float:
        """Milliseconds saved if ``group`` keeps ``fewer`` units than ``counts`` says and all others stay."""
        layers = self._layers[group]
        return self._sum(layers, counts) - self._sum(layers, {**counts, group: fewer})

    def neighbours(self, group: str) -> set[str]:
        """The groups whose savings change with this group's size, itself included."""
        return {group}.union(*(self.groups[number] for number in self._layers[group]))

    def layer(self, number: int, counts: Mapping[str, int]) -> float:
        """Milliseconds that one layer adds."""
        return 0.0 if number in self._gone else self.model.layer(number, *self._shape(number, counts))

    def _shape(self, number: int, counts: Mapping[str, int]) -> Shape:
        by_atom = {self._atoms[name]: counts[name] for name in self._groups[number] if name in counts}
        rows, columns = (kept_size(axis, by_atom) for axis in self._axes[number])
        return rows, columns

    def _sum(self, layers: Iterable[int], counts: Mapping[str, int]) -> float:
        return sum(self.layer(number, counts) for number in layers)


def _matrix(axes: tuple[Axis, ...]) -> tuple[Axis, Axis]:
    """Rows and columns of a weight; one without columns has one."""
    return (axes[0], axes[1]) if len(axes) > 1 else (axes[0], fixed(1))


def fits(structure: Structure, profile: Profile) -> None:
    """Raise MvpError if the profile is of another backbone or image size than the structure."""
    found = tuple(structure.example[0].shape[1:])
    if found != profile.input_size:
        raise InputError(
            f"the profile is of images of {_size(profile.input_size)}, and this model takes {_size(found)}: profile "
            f"the backbone at that size (`mvp-deploy profile {profile.backbone} --image-size {found[-1]}`)."
        )
    if layout(structure) != profile.layout or any(layer.weight not in structure.axes for layer in profile.layers):
        raise InputError(
            f"the profile is of {profile.backbone}, and this is another backbone: profile the one you prune with "
            "`mvp-deploy profile`."
        )


def _size(input_size: tuple[int, ...]) -> str:
    return "x".join(map(str, input_size[1:]))
