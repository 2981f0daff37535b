"""What can be removed from a model: unit groups, what is frozen and why, and the cost of any keep plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure.axes import Atom, Axis, axis_size, keep_mask, kept_size, unit_index
from mvp_deploy.structure.blocks import Block
from mvp_deploy.structure.calls import Call
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.sizes import Observation
from mvp_deploy.structure.trace import MacTerm, OverWhatStays, Ran


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer in which a group's units lie."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class UnitGroup:
    """Units that stand or fall one by one, each across all `members` at once.

    `kind` is 'channel', 'hidden' (a neuron of an MLP), 'head', 'group' (of a grouped operator), or 'head_dim' and
    'group_dim' for positions inside every head or group.
    """

    name: str
    kind: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Frozen:
    """A dimension of a parameter that must stay whole, and the operators and modules that say so."""

    member: Member
    size: int
    why: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """Number of parameters, and of multiply-accumulates for one input of the example's shape, batch 1."""

    params: int
    macs: int


@dataclass(frozen=True, eq=False)
class Structure:
    """What can be removed from a model. Knows names and sizes, holds no weights."""

    groups: tuple[UnitGroup, ...]
    frozen: tuple[Frozen, ...]
    unknown: Mapping[str, int]  # operators without a rule, and how often they ran
    taught: Mapping[str, str]  # operators whose rule was taught from outside, and the rule's name
    example: tuple[Tensor, ...]
    axes: Mapping[str, tuple[Axis, ...]] = field(repr=False)  # per parameter and buffer
    over_what_stays: Mapping[Ran, OverWhatStays] = field(repr=False)
    allow_inexact: bool
    inexact: tuple[str, ...]  # operators, and where, that mix units which can be removed because that was allowed
    calls: tuple[Call, ...] = field(repr=False)  # of the forward, in order
    observations: tuple[Observation, ...] = field(repr=False)
    blocks: tuple[Block, ...] = field(repr=False)  # residual branches that can be removed whole
    _atoms: Mapping[str, Atom] = field(repr=False)  # per group
    _macs: tuple[MacTerm, ...] = field(repr=False)
    _parameters: tuple[str, ...] = field(repr=False)

    def check(self, plan: KeepPlan) -> None:
        """Raise MvpError unless `plan` has one mask of the right length for every group."""
        sizes = {group.name: group.size for group in self.groups}
        if plan.masks.keys() != sizes.keys():
            odd = sorted(plan.masks.keys() ^ sizes.keys())
            raise StructureError(f"The keep plan is for another model: {', '.join(odd[:3])} is in only one of the two.")
        for name, mask in plan.masks.items():
            if len(mask) != sizes[name]:
                units = f"{name} has {sizes[name]}, not {len(mask)} units"
                raise StructureError(f"The keep plan is for another model: {units}.")
        if odd := sorted(plan.without - {block.name for block in self.blocks}):
            raise StructureError(f"The keep plan is for another model: {odd[0]} is not a block that can be removed.")

    def gone(self, without: Collection[str]) -> frozenset[str]:
        """The parameters and buffers that go with these blocks."""
        return frozenset[str]().union(*(block.tensors for block in self.blocks if block.name in without))

    def left(self, without: Collection[str]) -> list[UnitGroup]:
        """The unit groups that do not go whole with these blocks."""
        gone = self.gone(without)
        return [group for group in self.groups if any(member.tensor not in gone for member in group.members)]

    def calls_gone(self, without: Collection[str]) -> frozenset[int]:
        """The places in `calls` of those that go with these blocks."""
        return frozenset[int]().union(*(block.calls for block in self.blocks if block.name in without))

    def cost(self, plan: KeepPlan | None = None) -> Cost:
        """Parameters and MACs of the smaller model, without building it."""
        counts = {} if plan is None else {self._atoms[name]: plan.kept(name) for name in plan.masks}
        sizes: dict[Axis, int] = {}

        def measure(axes: tuple[Axis, ...]) -> int:
            out = 1
            for axis in axes:
                if axis not in sizes:
                    sizes[axis] = kept_size(axis, counts)
                out *= sizes[axis]
            return out

        without = frozenset[str]() if plan is None else plan.without
        tensors, calls = self.gone(without), self.calls_gone(without)
        macs = sum(term.factor * measure(term.axes) for term in self._macs if term.call not in calls)
        batch = self.example[0].shape[0] if self.example[0].ndim else 1
        params = sum(measure(self.axes[name]) for name in self._parameters if name not in tensors)
        return Cost(params, macs // max(batch, 1))

    def masks(self, plan: KeepPlan) -> dict[Atom, np.ndarray]:
        """The plan's masks by atom, ready for `axes.keep_mask`."""
        return {self._atoms[name]: mask for name, mask in plan.masks.items()}

    def tensor_masks(self, plan: KeepPlan) -> dict[str, list[np.ndarray | None]]:
        """For every parameter and buffer, per dimension the boolean mask of the positions that stay, None for all."""
        masks = self.masks(plan)
        return {
            name: [None if (mask := keep_mask(axis, masks)).all() else mask for axis in axes]
            for name, axes in self.axes.items()
        }

    def unit_mask(self, group: UnitGroup, tensor_masks: Mapping[str, list[np.ndarray | None]]) -> np.ndarray:
        """The mask of a group's units that `tensor_masks` (see above, perhaps of another structure) amounts to."""
        member = group.members[0]
        kept = tensor_masks[member.tensor][member.dim]
        ids = unit_index(self.axes[member.tensor][member.dim], self._atoms[group.name])
        mask = np.zeros(group.size, dtype=bool)
        mask[ids[(ids >= 0) & (True if kept is None else kept)]] = True
        return mask

    def per_unit(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums of `values` over everything in each member that belongs to a unit.

        Args:
            values: one tensor of the full parameter's shape per parameter name; missing ones are left out.

        Returns:
            Per group float64 [members with a value, units]. With values p * grad this is the first-order Taylor
            term of silencing each unit (Molchanov et al. 2019, eq. 8, before squaring), once per member.
        """
        out: dict[str, Tensor] = {}
        for group in self.groups:
            rows = []
            for member in group.members:
                value = values.get(member.tensor)
                if value is None:
                    continue
                others = [d for d in range(value.ndim) if d != member.dim]
                line = value.double().sum(others) if others else value.double()
                ids = torch.from_numpy(self.unit_ids(group, member)).to(line.device)
                inside = ids >= 0
                row = torch.zeros(group.size, dtype=torch.float64, device=line.device)
                rows.append(row.index_add_(0, ids[inside], line[inside]))
            if rows:
                out[group.name] = torch.stack(rows)
        return out

    def unit_ids(self, group: UnitGroup, member: Member) -> np.ndarray:
        """For each position along the member's dimension, the group's unit that it belongs to, or -1 (int64)."""
        return unit_index(self.axes[member.tensor][member.dim], self._atoms[group.name])

    @property
    def frozen_share(self) -> float:
        """Share of the weights that lie in parameters of which no dimension can shrink."""
        sizes = {name: int(np.prod([axis_size(a) for a in self.axes[name]])) for name in self._parameters}
        free = {m.tensor for group in self.groups for m in group.members}
        return sum(n for name, n in sizes.items() if name not in free) / max(sum(sizes.values()), 1)
