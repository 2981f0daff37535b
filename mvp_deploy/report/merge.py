"""Measurements from anywhere, read for one table: bundles, what `bench --out` wrote, and devices/NAME.json files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mvp_deploy import bundle as bundles
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Malformed, parse, read_json
from mvp_deploy.benchmark.format import Times, read_measurements
from mvp_deploy.remote.measured import Measured, kept
from mvp_deploy.report.devices import Column, Columns, column

CURE = "measure again"


@dataclass(frozen=True)
class OfDevices:
    """What `bench --on … --out` writes."""

    devices: dict[str, Measured]
    missing: dict[str, str] = field(default_factory=dict)


def merge(places: Iterable[Path]) -> Columns:
    """A column for each measurement in the places, once; a name that comes again gets its place added.

    Raises:
        MvpError: (INPUT) a place holds no measurements.
    """
    found: list[Column] = []
    for place in places:
        for each in _columns(place):
            if each not in found:
                taken = any(other.name == each.name for other in found)
                found.append(replace(each, name=f"{each.name} ({place})") if taken else each)
    return Columns(tuple(found))


def _columns(place: Path) -> list[Column]:
    if place.is_dir():
        columns = list(_of_bundle(place))
        cure = f"`mvp-deploy bench {place} --on NAME` takes some"
    else:
        cure = "give a bundle, or what `bench --out` wrote"
        data: dict[str, Any] = read_json(place, dict, cure=CURE)
        try:
            columns = list(_of_file(place, data))
        except Malformed as error:
            raise InputError(f"{place} holds no measurements ({error}): {cure}.") from error
    if not columns:
        raise InputError(f"{place} holds no measurements: {cure}.")
    return columns


def _of_bundle(place: Path) -> Iterator[Column]:
    opened = bundles.read(place)
    measured = read_measurements(opened)
    if measured is not None:
        yield Column("at export", parse(Times, measured), digest=bundles.digest(place))
    yield from map(column, kept(place).values())


def _of_file(place: Path, data: dict[str, Any]) -> Iterator[Column]:
    if "devices" in data:
        found = parse(OfDevices, data)
        yield from map(column, found.devices.values())
        yield from (Column(name, gap=why) for name, why in found.missing.items())
    elif "digest" in data:
        yield column(parse(Measured, data))
    else:
        yield Column(place.stem, parse(Times, data))
