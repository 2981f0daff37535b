"""How much stays, as the API's functions take it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mvp_deploy.api.arguments import check
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency import files
from mvp_deploy.latency.cost import ByProfile
from mvp_deploy.latency.floor import others
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Meet, Target
from mvp_deploy.latency.share import share
from mvp_deploy.latency.timer import here
from mvp_deploy.pruning.budget import Budget


@dataclass(frozen=True)
class Timed:
    """A time to meet, by a profile; known: others that lie beside it."""

    target: Target
    profile: Profile
    known: Sequence[Profile] = ()

    def meeting(self, round_to: int, reporter: Reporter) -> tuple[Budget, Meet]:
        """The time as a share of the profile's unpruned time, and what allots the units."""
        check(round_to=round_to)
        files.say_conditions(self.profile, reporter)
        clock = partial(here, self.profile, reporter)
        meet = Meet(self.target, self.profile, round_to, clock, reporter, self.known)
        return meet.budget, meet

    def share(self, round_to: int, reporter: Reporter) -> tuple[Budget, ByProfile]:
        """The same, and what milliseconds are counted by, for a bank's rounds: the real model is not timed."""
        check(round_to=round_to)
        return share(self.target, self.profile, round_to, reporter, self.known)


def budget_of(keep: float | None, macs: float | None, params: float | None, round_to: int) -> Budget:
    """The one budget asked for, or the default one. Raises MvpError for several, or one that is not a fraction."""
    check(keep=keep, macs=macs, params=params, round_to=round_to)
    return Budget.asked(keep=keep, macs=macs, params=params, round_to=round_to)


def target_of(
    latency: float | None,
    speed_up: float | None,
    on: str | os.PathLike[str] | Profile | None,
    reporter: Reporter,
    *budgets: float | None,
) -> Timed | None:
    """How fast, and by which profile; None if no time is asked for. Raises MvpError for what excludes each other."""
    if latency is None and speed_up is None:
        if on is not None:
            raise InputError("A profile (on=) needs a time: give latency= in milliseconds, or speed_up=.")
        return None
    if any(budget is not None for budget in budgets):
        raise InputError("Say how much stays by one of macs=, params=, keep=, latency= and speed_up=.")
    target = Target(latency, speed_up)
    if on is None:
        raise InputError(
            "A time needs a profile of the backbone: write one with `mvp-deploy profile`, and give it as on=."
        )
    if isinstance(on, Profile):
        return Timed(target, on)
    return Timed(target, files.known(Path(on), reporter), others(Path(on)))
