"""What models take on a device, under the conditions of a profile that was taken there."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mvp_deploy.base.errors import InputError, LatencyError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.format import Times
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.timer import ELSEWHERE, Timer, exported, plan_timer
from mvp_deploy.remote.command import carry_out
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.measured import times_of
from mvp_deploy.remote.session import session

if TYPE_CHECKING:
    from torch import nn

    from mvp_deploy.pruning.original import Original


def clock_there(name: str, device: Device, profile: Profile, reporter: Reporter, original: Original) -> Timer | None:
    """What times plans on the device; None, which is said, for engines, which are built there."""
    if profile.conditions.form == "engine":
        reporter.say(ELSEWHERE)
        return None
    return plan_timer(original.structure, original.model, partial(time_there, name, device, reporter, profile))


def time_there(
    name: str, device: Device, reporter: Reporter, profile: Profile, models: tuple[nn.Module, ...]
) -> tuple[float, ...]:
    """Milliseconds of several models there, medians of `mvp-deploy bench`.

    Raises:
        MvpError: (DEVICE) the device is away; (INPUT) it has another version of the runtime than in its profile;
            (LATENCY) its clocks were lowered or other processes worked meanwhile, and again when it was repeated; or
            what the command ended with there.
    """
    conditions = profile.conditions
    options = ["--runtime", conditions.runtime, "--device", conditions.device, "--threads", str(conditions.threads)]
    with TemporaryDirectory() as folder, session(name, device, reporter) as there:
        files = {f"{number}.onnx": file for number, file in enumerate(exported(profile, models, Path(folder)))}
        command = ["bench", *files, "--batch", str(conditions.batch), *options, "--json"]
        done = carry_out(there, command, files, repeat=True, power=True)
    if done.error:
        raise done.error
    if done.answer.throttled:
        raise LatencyError(
            f"{name}: its clocks were lowered while the pruned model was timed ({', '.join(done.answer.throttled)}): "
            "give it cooling or more power."
        )
    times = times_of(done, name)
    if disturbed(asdict(times.environment)):
        raise LatencyError(
            f"{name}: other processes kept {times.environment.others:.1f} cores busy while the pruned model was timed: "
            "let nothing else run there, and prune again."
        )
    _check_version(name, profile, times)
    return tuple(row.timing.p50 for row in times.rows if row.timing is not None)


def _check_version(name: str, profile: Profile, times: Times) -> None:
    """Raise MvpError if the device has another version of the runtime now than in its profile."""
    told = times.rows[0].details.get("runtime", "").split("-")[0]  # as «onnxruntime 1.22.0»
    known = f"{profile.conditions.runtime} {profile.version}"
    if told not in ("", known):
        raise InputError(
            f"{name} has {told}, and the profile was taken with {known}: profile it again. Where a profile was taken "
            f"because {name} was named, remove its file, beside the RUN or in OUT/work, and call again."
        )
