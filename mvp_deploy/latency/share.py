"""A time as a share of the unpruned model's, for a bank's rounds, which time nothing."""

from __future__ import annotations

from collections.abc import Sequence

from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency.cost import ByProfile
from mvp_deploy.latency.files import say_conditions
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Target
from mvp_deploy.latency.model import fit
from mvp_deploy.latency.timer import runs_here
from mvp_deploy.pruning.budget import Budget


def share(
    target: Target, profile: Profile, round_to: int, reporter: Reporter, known: Sequence[Profile] = ()
) -> tuple[Budget, ByProfile]:
    """The budget as a share of the profile's unpruned time, and what milliseconds are counted by.

    Raises:
        MvpError: the profile is of this machine, and of another version of its runtime.
    """
    say_conditions(profile, reporter)
    runs_here(profile)
    aligned = max(round_to, fit(profile).alignment)
    return Budget(target.share(profile.full_ms), "latency", aligned), ByProfile(profile, known)
