"""A time that no cut of a backbone meets: what it can do at least, and what would meet it instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.latency import files
from mvp_deploy.latency.format import Profile

STEP = 32  # pixels: what image sizes are multiples of
MANY = 50  # files of a folder that are looked at


class BelowFloor(InputError):
    """The smallest model takes ``floor`` milliseconds, longer than the ``asked`` ones."""

    def __init__(self, asked: float, floor: float, cure: str) -> None:
        super().__init__(
            f"{asked:.3g} ms cannot be met by cutting: the smallest this backbone gets takes {floor:.3g} ms. {cure}"
        )
        self.asked, self.floor = asked, floor

    def beside(self, profile: Profile, known: Sequence[Profile]) -> BelowFloor:
        """The same, naming what would do it: one of the ``known`` profiles, or another image size by its pixels."""
        return BelowFloor(self.asked, self.floor, _instead(self.asked, self.floor, profile, known))


def _instead(asked: float, floor: float, profile: Profile, known: Sequence[Profile]) -> str:
    alike = [
        each
        for each in known
        if (each.conditions, each.precision, each.machine) == (profile.conditions, profile.precision, profile.machine)
        and each.full_ms <= asked
    ]
    if alike:
        best = max(alike, key=lambda each: each.full_ms)
        size = best.input_size[-1]
        return f"{best.backbone} with --image-size {size} takes {best.full_ms:.3g} ms unpruned, as its profile says."
    size = profile.input_size[-1]
    smaller = int(size * (asked / floor) ** 0.5) // STEP * STEP
    if smaller < STEP:
        return "Ask for more, or take a smaller backbone: its image cannot be small enough."
    ms = floor * (smaller / size) ** 2
    return (
        f"Ask for more, or for --image-size {smaller}, where it would get down to about {ms:.3g} ms (scaled by the "
        "number of pixels, not measured), or take a smaller backbone."
    )


def others(path: Path) -> list[Profile]:
    """The other profiles in a profile's folder; other files are skipped."""
    found = []
    for file in sorted(path.parent.glob("*.json"))[:MANY]:
        if file != path:
            try:
                found.append(files.read(file))
            except MvpError:
                continue
    return found
