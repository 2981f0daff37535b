"""The keep plan: for every unit group, which of its units stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from mvp_deploy.base.errors import InputError, StructureError
from mvp_deploy.base.formats import Like, Malformed, Size, parse

if TYPE_CHECKING:
    from mvp_deploy.structure.structure import Structure


BLOCK = ":block"


@dataclass(frozen=True)
class PackedMask:
    """A group's mask as a file has it."""

    units: Size
    kept: Annotated[str, Like("([0-9a-f]{2})+", "hexadecimal digits")]  # of eight units each two, first unit first

    def __post_init__(self) -> None:
        if len(self.kept) != 2 * -(-self.units // 8):
            raise StructureError(f"{self.units} units do not fit {len(self.kept)} digits")

    def unpacked(self) -> np.ndarray:
        packed = np.frombuffer(bytes.fromhex(self.kept), np.uint8)
        return np.unpackbits(packed, count=self.units).astype(bool)


@dataclass(frozen=True, eq=False)
class KeepPlan:
    """Boolean masks over the original backbone's units, one per unit group, by the group's name.

    without: the names of blocks that are removed whole (`Structure.blocks`); the masks of groups inside say nothing.
    """

    masks: Mapping[str, np.ndarray]
    without: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            if not mask.any():
                raise StructureError(f"The keep plan removes every unit of {name}; keep at least one.")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, KeepPlan)
            and self.masks.keys() == other.masks.keys()
            and self.without == other.without
            and all(np.array_equal(mask, other.masks[name]) for name, mask in self.masks.items())
        )

    @classmethod
    def full(cls, structure: Structure) -> KeepPlan:
        """The plan that removes nothing."""
        return cls({group.name: np.ones(group.size, dtype=bool) for group in structure.groups})

    def kept(self, group: str) -> int:
        """How many units of `group` stay."""
        return int(self.masks[group].sum())

    def to_json(self) -> dict[str, Any]:
        """Compact and readable: per group the number of units and its mask as hexadecimal digits, first unit first.

        A block that is removed is one unit that is not kept, under its name and `BLOCK`.
        """
        masks = {
            name: {"units": len(mask), "kept": np.packbits(mask).tobytes().hex()} for name, mask in self.masks.items()
        }
        return masks | {f"{name}{BLOCK}": {"units": 1, "kept": "00"} for name in sorted(self.without)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KeepPlan:
        """Undo `to_json`.

        Raises:
            MvpError: the data is not a keep plan.
        """
        try:
            masks = {name: mask.unpacked() for name, mask in parse(dict[str, PackedMask], data).items()}
            without = {name for name, mask in masks.items() if name.endswith(BLOCK) and not mask.any()}
            kept = {name: mask for name, mask in masks.items() if name not in without}
            return cls(kept, frozenset(name.removesuffix(BLOCK) for name in without))
        except Malformed as error:
            raise InputError(f"This is not a keep plan ({error}); write it again with `mvp-deploy prune`.") from error
