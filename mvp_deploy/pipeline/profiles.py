"""Profiles of devices that tasks of a deploy.yaml name: each is taken once for all tasks, and kept.

OUT/work/NAME-KEY.profile.json: KEY changes, and so another is taken, with the backbone and its image size, the device's
entry in devices.yaml, benchmark.threads, and the precision and runtime that ship.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mvp_deploy.base.fetching import is_url
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.pipeline import steps
from mvp_deploy.pipeline.config import TaskSection
from mvp_deploy.remote.inventory import Device, one

if TYPE_CHECKING:
    from mvp_deploy.backbones import Backbone


def device_of(profile: str, base: Path, inventory: Path) -> tuple[str, Device] | None:
    """The device of devices.yaml that ``time.profile`` names; None where that is a file.

    Raises:
        MvpError: (INPUT) it is neither.
    """
    is_file = is_url(profile) or profile.endswith(".json") or (base / profile).is_file()
    return None if is_file else one(inventory, profile)


def of_device(
    there: tuple[str, Device], task: TaskSection, backbone: Backbone, out: Path, reporter: Reporter, *, take: bool
) -> Path:
    """Where the device's profile for this task is kept; with ``take`` the device is profiled where it is not there.

    That takes minutes, and is said.

    Raises:
        MvpError: (DEVICE) it is away; or what the command ended with there.
    """
    from mvp_deploy.latency.files import maker
    from mvp_deploy.pipeline.shrink import shipped_of
    from mvp_deploy.remote.profile import profiled

    (name, device), shipped, threads = there, shipped_of(task.export), task.benchmark.threads
    model = backbone.name.partition(".")[0], backbone.preprocessing.input_size
    key = steps.key(model=model, device=device.settings, threads=threads, shipped=asdict(shipped))
    path = out / "work" / f"{name}-{key[:12]}.profile.json"
    if take and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        source = maker(backbone.name, backbone, shipped.precision, reporter)
        options = () if threads is None else ("--threads", str(threads))
        profiled(name, device, source, shipped.conditions(True), path, reporter, options)
    return path
