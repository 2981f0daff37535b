"""Timing what a plan leaves of a model beside the unpruned one, under the conditions of a profile.

In fresh processes, as `bench` does: memory comes to lie elsewhere in each, and a model's time differs with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mvp_deploy.base.environment import environment
from mvp_deploy.base.errors import EnvironmentMissing
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.looks import Round, looks, warn_if_disturbed
from mvp_deploy.benchmark.measure import Settings, timing
from mvp_deploy.latency.engines import gpu_of
from mvp_deploy.latency.files import check_version
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.measure import ready, runtime_version
from mvp_deploy.latency.pieces import converted
from mvp_deploy.latency.plan import Solution

if TYPE_CHECKING:
    from torch import nn

    from mvp_deploy.pruning.original import Original
    from mvp_deploy.structure import Structure

ELSEWHERE = "the profile is of another machine or runtime than here: the pruned model is not timed, so time it there."
WINDOWS = Settings(duration=2.0, processes=5, window=0.05, warm_up=0.1)
Clock = Callable[["tuple[nn.Module, ...]"], "tuple[float, ...]"]  # models -> milliseconds of each
Timer = Callable[[Solution], tuple[float, float]]  # what stays -> milliseconds of that model, and of the unpruned one


def here(profile: Profile, reporter: Reporter, original: Original) -> Timer | None:
    """What times plans on this machine; None, which is said, where the profile is of another."""
    found = timer(original.structure, original.model, profile, reporter)
    if found is None:
        reporter.say(ELSEWHERE)
    return found


def timer(structure: Structure, full: nn.Module, profile: Profile, reporter: Reporter) -> Timer | None:
    """What times a plan's model beside the unpruned one, in turns; None if it cannot be timed here.

    That is where the profile is of another machine, or this Python lacks its runtime.

    Raises:
        MvpError: the machine is the profile's, and the runtime is of another version.
    """
    return plan_timer(structure, full, partial(time_models, profile, reporter)) if runs_here(profile) else None


def runs_here(profile: Profile) -> bool:
    """Whether this machine is the profile's, and this Python has its runtime.

    Raises:
        MvpError: the machine is the profile's, and the runtime is of another version.
    """
    if not _here(profile):
        return False
    try:
        version = runtime_version(profile.conditions)
    except EnvironmentMissing:  # TensorRT may have a Python of its own
        return False
    check_version(profile, version)
    return True


def plan_timer(structure: Structure, full: nn.Module, clock: Clock) -> Timer:
    """What times a plan's model beside the unpruned one by ``clock``, which is given both."""

    def time_plan(solution: Solution) -> tuple[float, float]:
        from mvp_deploy.structure import KeepPlan, prune

        masks = {group.name: np.arange(group.size) < solution.counts[group.name] for group in structure.groups}
        ms, full_ms = clock((prune(structure, full, KeepPlan(masks, solution.without), check=False), full))
        return ms, full_ms

    return time_plan


def _here(profile: Profile) -> bool:
    """Whether this machine, with its GPU if that computed, is the profile's."""
    try:
        return (environment()["cpu"], gpu_of(profile.conditions.device)) == (profile.machine.cpu, profile.machine.gpu)
    except EnvironmentMissing:  # no such GPU
        return False


def time_models(profile: Profile, reporter: Reporter, models: tuple[nn.Module, ...]) -> tuple[float, ...]:
    """Milliseconds of several models under a profile's conditions, in turns; other work meanwhile is warned of."""
    conditions = profile.conditions
    with tempfile.TemporaryDirectory() as folder:
        files = exported(profile, models, Path(folder))
        runs = [(ready(file, profile.precision, conditions), conditions.runtime, conditions.device) for file in files]
        found = looks([Round(runs, conditions.batch, None)], WINDOWS, conditions.threads, reporter)
    warn_if_disturbed(found, reporter, "a plan may be slower or faster than timed. Prune again when nothing else runs.")
    sessions = zip(*(look.sessions[0] for look in found), strict=True)
    return tuple(timing(theirs, conditions.batch, WINDOWS).median.value for theirs in sessions)


def exported(profile: Profile, models: tuple[nn.Module, ...], folder: Path) -> list[Path]:
    """ONNX files of models in a profile's precision and form."""
    import torch

    from mvp_deploy.exporters.onnx import export_onnx

    form, size = profile.conditions.form, profile.input_size
    found = []
    for number, model in enumerate(models):
        file = export_onnx(model, torch.zeros(1, *size), folder / f"{number}.fp32.onnx", {})
        found.append(converted(file, profile.precision, form, size, folder / f"{number}.onnx"))
    return found
