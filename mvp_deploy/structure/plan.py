"""The keep plan: for every unit group, which of its units stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mvp_deploy.base.errors import DeployError

if TYPE_CHECKING:
    from mvp_deploy.structure.structure import Structure


@dataclass(frozen=True, eq=False)
class KeepPlan:
    """Boolean masks over the original backbone's units, one per unit group, by the group's name."""

    masks: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        for name, mask in self.masks.items():
            if not mask.any():
                raise DeployError(f"The keep plan removes every unit of {name}; keep at least one.")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, KeepPlan)
            and self.masks.keys() == other.masks.keys()
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
        """Compact and readable: per group the number of units and its mask as hexadecimal digits, first unit first."""
        return {
            name: {"units": len(mask), "kept": np.packbits(mask).tobytes().hex()} for name, mask in self.masks.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KeepPlan:
        """Undo `to_json`.

        Raises:
            DeployError: the data is not a keep plan.
        """
        try:
            return cls({name: _unpack(entry["kept"], int(entry["units"])) for name, entry in data.items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DeployError(f"This is not a keep plan ({error}); write it again with `mvp-deploy prune`.") from error


def _unpack(digits: str, units: int) -> np.ndarray:
    packed = np.frombuffer(bytes.fromhex(digits), np.uint8)
    if len(packed) != -(-units // 8):
        raise ValueError(f"{units} units do not fit {len(packed)} bytes")
    return np.unpackbits(packed, count=units).astype(bool)
