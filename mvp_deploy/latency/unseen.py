"""How well a profile predicts models that it has not seen. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.model import held_out

ENOUGH = 4  # models, or their errors say nothing
MEDIAN, WORST = 0.05, 0.10  # errors up to which a profile predicts well


@dataclass(frozen=True)
class Unseen:
    """Relative errors of ``models``, each predicted by a fit to the profile's others."""

    median: float
    worst: float
    models: int

    @property
    def doubt(self) -> str | None:
        """What to know of a profile that does not predict well."""
        if self.median <= MEDIAN and self.worst <= WORST:
            return None
        return (
            f"the profile predicts models that it has not seen {self}: where the model is not timed afterwards, it may "
            "miss its time by as much. Profile again when nothing else runs, or with more --variants."
        )

    def __str__(self) -> str:
        return (
            f"{self.median:.1%} off in the median, {self.worst:.1%} at worst ({self.models} models, each by a fit to "
            "the others)"
        )


def unseen(profile: Profile) -> Unseen | None:
    """The errors of a profile's own models; None if too few of them lie on its alignment."""
    pairs = held_out(profile)
    if len(pairs) < ENOUGH:
        return None
    errors = np.abs([predicted / ms - 1 for ms, predicted in pairs])
    return Unseen(float(np.median(errors)), float(errors.max()), len(pairs))


def doubts(profile: Profile) -> list[str]:
    """What to know where a time is met by the profile."""
    found = unseen(profile)
    return [found.doubt] if found and found.doubt else []
