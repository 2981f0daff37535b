"""A profile of a backbone's layers, measured on a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.remote.command import carry_out
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.measured import defaults
from mvp_deploy.remote.session import session

PIECES, PROFILE = "pieces.zip", "profile.json"


def profile(
    name: str, device: Device, pieces: Path, options: Sequence[str], out: Path, reporter: Reporter
) -> dict[str, Any]:
    """Time the pieces there with these options of `mvp-deploy profile`, and write the profile to ``out``."""
    arguments = ["profile", PIECES, "--out", PROFILE, *defaults(device, options, "threads"), *options, "--json"]
    with session(name, device, reporter) as there:
        done = carry_out(there, arguments, {PIECES: pieces}, power=True)
        if done.error or PROFILE not in done.made:
            raise done.error or MvpError(f"{name} wrote no profile: run again.")
        there.fetch(*done.made[PROFILE], out)
    return dict(done.output)
