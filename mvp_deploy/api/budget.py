"""How much stays, as the API's functions take it."""

from __future__ import annotations

import os
from pathlib import Path

from mvp_deploy.api.arguments import check
from mvp_deploy.base.errors import InputError
from mvp_deploy.latency import files
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Target
from mvp_deploy.pruning.budget import Budget

Timed = tuple[Target, Profile]


def budget_of(keep: float | None, macs: float | None, params: float | None, round_to: int) -> Budget:
    """The one budget asked for. Raises MvpError for none, several, or one that is not a fraction."""
    check(keep=keep, macs=macs, params=params, round_to=round_to)
    if (keep, macs, params).count(None) != 2:
        raise InputError("Say how much stays by one of macs=, params= and keep=, a fraction above 0 and at most 1.")
    return Budget.asked(keep=keep, macs=macs, params=params, round_to=round_to)


def target_of(
    latency: float | None,
    speed_up: float | None,
    on: str | os.PathLike[str] | Profile | None,
    *others: float | None,
) -> Timed | None:
    """How fast, and by which profile; None if no time is asked for. Raises MvpError for what excludes each other."""
    if latency is None and speed_up is None:
        if on is not None:
            raise InputError("A profile (on=) needs a time: give latency= in milliseconds, or speed_up=.")
        return None
    if any(other is not None for other in others):
        raise InputError("Say how much stays by one of macs=, params=, keep=, latency= and speed_up=.")
    target = Target(latency, speed_up)
    if on is None:
        raise InputError(
            "A time needs a profile of the backbone: write one with `mvp-deploy profile`, and give it as on=."
        )
    return target, on if isinstance(on, Profile) else files.read(Path(on))
