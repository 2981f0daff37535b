"""A task's models on devices: measured once for each device and its settings, judged, shown side by side.

OUT/work/TASK/devices/NAME.json  what was measured, as in a bundle
OUT/work/TASK/devices/NAME.key   of what it was measured with
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mvp_deploy import bundle
from mvp_deploy.base.errors import DeviceAway, ExitCode, MvpError
from mvp_deploy.base.files import write_bytes, write_text
from mvp_deploy.base.formats import read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.looks import disturbed
from mvp_deploy.pipeline import steps
from mvp_deploy.pipeline.config import GatesSection
from mvp_deploy.pipeline.gates import Verdict, judge_times
from mvp_deploy.pipeline.steps import Work
from mvp_deploy.remote.inventory import Device, Inventory
from mvp_deploy.remote.measured import Measured, OnDevice, content, measure
from mvp_deploy.remote.session import on_each


def measure_on(work: Work, devices: Inventory, allow_missing: bool, reporter: Reporter) -> dict[str, OnDevice]:
    """The task's exported models on every device at once; what was measured before in the same way is kept."""
    found = on_each(devices, partial(_measured, work, reporter))
    return {name: _told(each, allow_missing) for name, each in found.items()}


def judge_on(devices: Mapping[str, OnDevice], gates: GatesSection) -> Iterator[Verdict]:
    """Every gate of a device; a device without numbers is not measured, whatever its gates."""
    for name, found in devices.items():
        if found.measured is None:
            why = str(found.gap).removeprefix(f"{name}: ")
            yield Verdict("device", name, None, None, None, 0.0, "not measured", found.code, why)
            continue
        own = gates.devices.get(name)
        if own is not None:
            times = asdict(found.measured.times)
            yield from judge_times(times, own.latency, own.at_least, f"{name}: ", bool(found.measured.throttled))


def files(work: Work) -> dict[str, Path]:
    """The measurements that go into the task's bundle, by their devices: those that are results of its models."""
    return {name: place for name, place in _places(work).items() if _is_result(work, _read(place))}


def to_json(devices: Mapping[str, OnDevice]) -> dict[str, Any]:
    return {name: asdict(each) for name, each in devices.items()}


def _measured(work: Work, reporter: Reporter, name: str, device: Device) -> Measured:
    asked = work.task.benchmark
    place = work.folder / "devices" / f"{name}.json"
    key = steps.key(after=work.keys["export"], benchmark=asdict(asked), device=device.settings)
    known, mark = _read(place), place.with_suffix(".key")
    kept = mark.is_file() and mark.read_text(encoding="utf-8") == key
    if known is not None and kept and _is_result(work, known):
        return known
    threads = [] if asked.threads is None else ["--threads", str(asked.threads)]
    options = ["--batch", ",".join(map(str, asked.batches)), "--duration", str(asked.duration), *threads]
    found, error = measure(name, device, work.output("export"), options, reporter)
    if error:
        raise error
    mark.unlink(missing_ok=True)
    write_bytes(place, content(found))
    write_text(mark, key)
    return found


def _told(found: Measured | MvpError, allow_missing: bool) -> OnDevice:
    if isinstance(found, Measured):
        return OnDevice(found)
    may_be = allow_missing and isinstance(found, DeviceAway)
    return OnDevice(gap=str(found), code=ExitCode.OK if may_be else found.code)


def _is_result(work: Work, found: Measured | None) -> bool:
    """Whether it is of the task's models as they are, and nothing was in the way."""
    if found is None or found.digest != bundle.digest(work.output("export")):
        return False
    return not found.throttled and not disturbed(asdict(found.times.environment))


def _places(work: Work) -> dict[str, Path]:
    return {place.stem: place for place in sorted((work.folder / "devices").glob("*.json"))}


def _read(place: Path) -> Measured | None:
    try:
        return read_json(place, Measured, cure="measure again")
    except MvpError:
        return None
