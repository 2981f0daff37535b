"""A profile of a backbone's layers, measured on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.latency import files
from mvp_deploy.latency.format import Conditions, Form, Profile, Subject
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


def profiled(
    name: str,
    device: Device,
    source: Callable[[Path, Form], Subject],
    conditions: Conditions,
    out: Path,
    reporter: Reporter,
    options: Sequence[str] = (),
) -> Profile:
    """The profile in ``out``; if there is none, its pieces are made here and timed there, which is said.

    Args:
        source: makes the pieces.
        conditions: the runtime and what computes; threads are the device's own.
        options: more of `mvp-deploy profile`.
    """

    def make() -> Profile:
        with session(name, device, reporter, alone=False):
            pass  # a device that is away is told before minutes of work
        with TemporaryDirectory() as folder:
            pieces = Path(folder, PIECES)
            files.make_pieces(pieces, source, conditions)
            asked = ["--runtime", conditions.runtime, "--device", conditions.device, *options]
            profile(name, device, pieces, asked, out, reporter)
        return files.read(out)

    return files.profile_on(out, make, reporter, name)
