"""Engines on disk, each with a JSON that says what it was built from and for; without it none is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mvp_deploy.exporters.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.exporters.fields import Amount, Count, Like, Sha256, Within
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.formats import read_as, reading_errors
from mvp_deploy.exporters.tensorrt.releases import version_number

if TYPE_CHECKING:
    from mvp_deploy.exporters.tensorrt.build import Built, Options
    from mvp_deploy.exporters.tensorrt.probe import Offer

FORMAT = 1
CURE = "build it again on this machine with `mvp-deploy build`"


@dataclass(frozen=True)
class BuiltFor:
    """The GPU of an engine."""

    name: Annotated[str, Within(0, 500)]
    compute_capability: Annotated[str, Like(r"\d{1,3}\.\d{1,3}", "a compute capability, as 8.7")]
    multiprocessors: Count


@dataclass(frozen=True)
class Identity:
    """Everything an engine depends on."""

    onnx: Sha256
    tensorrt: Annotated[str, Like(r"\d{1,4}\.\d{1,4}[0-9A-Za-z.+-]{0,40}", "a version")]
    gpu: BuiltFor
    options: dict[str, str | int | bool | tuple[str, ...] | None]

    def __post_init__(self) -> None:
        if not {"version_compatible", "hardware_compatible"} <= self.options.keys():
            raise InputError("options are missing")


@dataclass(frozen=True)
class Record:
    """The description that lies beside an engine."""

    format: int
    identity: Identity
    onnx: Annotated[str, Within(1, 4096)]  # the file it was built from, as seen from its folder
    sha256: Sha256
    bytes: Count
    layers: dict[str, Count]  # computing layers by precision
    build_seconds: Amount


def identity(offer: Offer, onnx: Path, options: Options) -> dict[str, Any]:
    """Everything an engine depends on: when any of it differs, it is another engine."""
    gpu = asdict(offer.gpu)
    del gpu["memory"], gpu["cuda"]  # change with the driver and leave engines valid
    checksum = _sha256(onnx.read_bytes())
    return {"onnx": checksum, "tensorrt": offer.version, "gpu": gpu, "options": options.to_json()}


def sidecar(engine: Path) -> Path:
    """Where an engine's description lies."""
    return engine.with_name(engine.name + ".json")


def folder(offer: Offer) -> str:
    """A folder name for the engines of this GPU and TensorRT."""
    return re.sub(r"[^a-z0-9.]+", "-", f"{offer.gpu.name}-tensorrt-{offer.version}".lower()).strip("-")


def timing(offer: Offer) -> Path:
    """Where this machine keeps what kernels took, for all builds with this GPU and TensorRT."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "mvp-deploy", f"{folder(offer)}.timing")


def store(engine: Path, built: Built, wanted: Mapping[str, Any], onnx: Path) -> dict[str, Any]:
    """Write an engine and its description, the description last: an engine without one is not loaded."""
    record = {
        "format": FORMAT,
        "identity": wanted,
        "onnx": os.path.relpath(onnx, engine.parent),
        "sha256": _sha256(built.plan),
        "bytes": len(built.plan),
        "layers": built.layers,
        "build_seconds": round(built.seconds, 1),
    }
    sidecar(engine).unlink(missing_ok=True)
    write_bytes(engine, built.plan)
    write_bytes(sidecar(engine), json.dumps(record, indent=2, sort_keys=True).encode())
    return record


def remove(engine: Path) -> None:
    """Delete an engine and its description."""
    sidecar(engine).unlink(missing_ok=True)
    engine.unlink(missing_ok=True)


def stored(engine: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description of an engine that is whole and is exactly the wanted one, else None."""
    try:
        record = _record(engine)
        _plan(engine, record)
    except MvpError:
        return None
    return record if record["identity"] == wanted else None


def read(engine: Path, offer: Offer) -> tuple[bytes, dict[str, Any]]:
    """A stored engine's plan and description, fit for this machine.

    Raises:
        MvpError: (INPUT) it has no description, is damaged, or its ONNX file has changed since;
            (ENVIRONMENT) it was built by another TensorRT or for another GPU.
    """
    record = _record(engine)
    built = record["identity"]
    _refuse_other_version(engine, built, offer)
    _refuse_other_gpu(engine, built, offer)
    onnx = engine.parent / record["onnx"]
    with reading_errors(onnx):
        stale = onnx.is_file() and _sha256(onnx.read_bytes()) != built["onnx"]
    if stale:
        raise InputError(f"{engine.name} is stale: {onnx.name} has changed since it was built; {CURE}.")
    return _plan(engine, record), record


def _record(engine: Path) -> dict[str, Any]:
    path = sidecar(engine)
    missing = f"{engine.name} has no {path.name} to say what it was built from and for: {CURE}."
    return read_as(path, Record, cure=CURE, missing=missing, versions=(FORMAT,))


def _plan(engine: Path, record: Mapping[str, Any]) -> bytes:
    with reading_errors(engine):
        plan = engine.read_bytes() if engine.is_file() and engine.stat().st_size == record["bytes"] else b""
    if _sha256(plan) != record["sha256"]:
        raise InputError(f"{engine.name} is not what was built (its checksum differs): {CURE}.")
    return plan


def _refuse_other_version(engine: Path, built: Mapping[str, Any], offer: Offer) -> None:
    if built["tensorrt"] == offer.version:
        return
    later = version_number(offer.version) >= version_number(built["tensorrt"])
    if not (built["options"]["version_compatible"] and later):
        raise EnvironmentMissing(
            f"{engine.name} is of TensorRT {built['tensorrt']} and this machine has {offer.version}: {CURE}.",
        )


def _refuse_other_gpu(engine: Path, built: Mapping[str, Any], offer: Offer) -> None:
    there = built["gpu"]
    same = all(getattr(offer.gpu, key) == value for key, value in there.items())
    ampere = float(offer.gpu.compute_capability) >= 8.0
    if not (same or (built["options"]["hardware_compatible"] and ampere)):
        raise EnvironmentMissing(
            f"{engine.name} is for {_gpu(there)} and this machine has {_gpu(asdict(offer.gpu))}: {CURE}.",
        )


def _gpu(gpu: Mapping[str, Any]) -> str:
    return f"{gpu['name']} ({gpu['multiprocessors']} multiprocessors, compute {gpu['compute_capability']})"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
