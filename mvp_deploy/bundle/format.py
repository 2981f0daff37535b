"""The deployable folder: models, labels, preprocessing, samples, and a manifest with every file's checksum.

    manifest.json       format, and sha256 and size of every other file
    bundle.json         task, backbone, licence, versions, and a record of each model (``ModelFile``)
    models/             <pruned|unpruned|model>.<precision>.onnx, and other targets' files or, of Core ML, folders;
                        `model` stands alone
    labels.json         class names, in the order of the logits
    preprocessing.json  from an image to the input; missing where only the model's owner knows
    keep_plan.json      which units of the original stayed, where units were removed
    calibration.npz     training images, prepared: what the ranges of fp16 and int8 models were measured on
    samples.npz         held-out images, prepared, with labels and the PyTorch models' logits, for parity
    held_out.npz        labels of all held-out images, and the class that each PyTorch model gives them and how surely
    measurements.json   latencies measured before the bundle was written
    devices/NAME.json   what was measured on a device later
    example.py          classifies an image with numpy, Pillow and the runtime of one of the models
    example.cpp         the same in C++ with ONNX Runtime, and example.html in a browser, where there is an ONNX file
    model.sig           the owner's signature of all this, where it was signed; not in the manifest
    built/              what was built from it on the machine where it lies (engines); not in the manifest
    extra/              the user's own files: in the manifest if they came with --extra, free for more afterwards

Needs numpy alone: a device reads and verifies bundles.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import sha256
from mvp_deploy.base.folders import restore
from mvp_deploy.base.formats import (
    Amount,
    Classes,
    Count,
    Like,
    Sha256,
    Share,
    Within,
    Word,
    damaged,
    inside,
    parse,
    read_as,
    read_json,
    reading_errors,
)
from mvp_deploy.exporters.arrays import Plain, read_npz
from mvp_deploy.exporters.external import external_files

FORMAT = 1
CURE = "copy the bundle again, or export it again"
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"  # OpenSSF Model Signing's usual name
BUILT = "built"
DEVICES = "devices"  # the folder of what was measured on devices, a file for each
EXTRA = "extra"
HELD_OUT = "held_out.npz"
MAX_SAMPLES = 64
# How far logits may be from PyTorch's at most, whatever a bundle says: exporters' and engines' tolerances lie within.
LOOSEST = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.3}


@dataclass(frozen=True)
class ModelFile:
    """One model in a bundle. ``accuracy`` and ``parity`` were measured in the runtime the file is for."""

    file: str  # inside the bundle, with slashes
    model: Annotated[str, Like("pruned|unpruned|model", "pruned, unpruned or model")]
    target: Word  # 'onnx', 'openvino', ...
    precision: Annotated[str, Like("fp32|fp16|int8", "fp32, fp16 or int8")]
    accuracy: Share  # on ``tested`` of the held-out images (all, but of engines the samples)
    parity: Amount  # what the images' logits are off from PyTorch's, relative to their size (exporters.parity)
    tolerance: Amount  # how large that may be, within what `LOOSEST` allows
    params: Count
    macs: Count  # multiply-accumulates for one image
    kept: tuple[str, ...] = ()  # ONNX nodes left in a higher precision: they overflow fp16, or int8 costs too much
    tested: Count = 0  # images the accuracy was measured on
    wrong: tuple[Count, ...] = ()  # numbers of the held-out images it names wrongly; () where not all were tested
    stand_in: str = ""  # what computed it for these numbers, where its own runtime did not

    def __post_init__(self) -> None:
        if not self.tolerance <= LOOSEST.get(self.precision, 0):
            raise InputError(
                f"{self.file} allows itself a tolerance of {self.tolerance:g}, and {self.precision} needs "
                f"{LOOSEST.get(self.precision, 0):g} at most"
            )


@dataclass(frozen=True)
class Info:
    """bundle.json: where the models come from, for people; and what each file is."""

    models: Annotated[tuple[ModelFile, ...], Within(0, 10_000)]
    task: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    licence: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    votes: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    calibration: dict[str, str | int] = field(default_factory=dict)
    failed: tuple[dict[str, Any], ...] = ()  # files that were asked for and did not pass


@dataclass(frozen=True)
class Listed:
    """What the manifest says of a file."""

    sha256: Sha256
    bytes: Count


@dataclass(frozen=True)
class Manifest:
    """manifest.json."""

    format: int
    files: Annotated[dict[str, Listed], Within(0, 100_000)]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are as they were written."""

    path: Path
    info: Mapping[str, Any]  # bundle.json
    classes: tuple[str, ...]
    models: tuple[ModelFile, ...]

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """``images`` float32 [n, channels, H, W], ``labels`` int64 [n], each model's logits float32 [n, classes]."""
        arrays = {"images": Plain("float32", 4), "labels": Plain("int64", 1)}
        alone = any(file.model == "model" for file in self.models)
        arrays |= {name: Plain("float32", 2) for name in (["model"] if alone else ["pruned", "unpruned"])}
        found = read_npz(self.path / "samples.npz", arrays, cure=CURE)
        count, classes = len(found["images"]), len(self.classes)
        shapes = {name: (count, classes) for name in arrays} | {"images": found["images"].shape, "labels": (count,)}
        if not 1 <= count <= MAX_SAMPLES or {name: array.shape for name, array in found.items()} != shapes:
            raise damaged(self.path / "samples.npz", "its arrays do not fit each other", CURE)
        if not ((found["labels"] >= 0) & (found["labels"] < classes)).all():
            raise damaged(self.path / "samples.npz", "it has labels of no class", CURE)
        return found


def read(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle after checking every file against the manifest.

    Raises:
        MvpError: it is not a bundle, of another format, or not as it was written.
    """
    path = Path(path)
    if problems := verify(path):
        raise InputError(
            f"{path} is not as it was written ({'; '.join(problems[:3])}): copy it again or export it again."
        )
    file, known = path / "bundle.json", listed(path)
    info = read_as(file, Info, cure=CURE)
    models = parse(Info, info).models
    for model in models:
        inside(path, model.file, "its bundle.json")
        if model.file not in known and not any(name.startswith(f"{model.file}/") for name in known):
            raise InputError(f"{file} names {model.file!r}, which is not of the bundle: do not trust it.")
    return Bundle(path, info, read_json(path / "labels.json", Classes, cure=CURE), models)


def digest(path: Path) -> str:
    """A checksum of what a bundle is made of: its files, but for what was measured with it."""
    files = {
        name: file.sha256
        for name, file in listed(path).items()
        if name != "measurements.json" and not name.startswith(f"{DEVICES}/")
    }
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def is_bundle(path: Path) -> bool:
    """Whether there is a bundle, whole or not."""
    restore(path)
    return (path / MANIFEST).is_file()


def verify(path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with the files: a line for each that is changed, missing or added; empty when whole.

    Raises:
        MvpError: it is not a bundle, of another format, or its manifest names a path outside its folder.
    """
    path = Path(path)
    restore(path)
    expected_files = listed(path)
    problems = []
    for name, expected in expected_files.items():
        file = inside(path, name)
        with reading_errors(file):
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif file.stat().st_size != expected.bytes or sha256(file) != expected.sha256:
                problems.append(f"{name} is changed")
            elif file.suffix == ".onnx":
                problems += [
                    f"{name} keeps weights in {place!r}, which is not a file of the bundle"
                    for place in sorted(_elsewhere(name, file) - expected_files.keys())
                ]
    free = f"{BUILT}/", f"{EXTRA}/"
    added = [name for name in names(path) if name not in expected_files and name != SIGNATURE]
    return problems + [f"{name} is added" for name in added if not name.startswith(free)]


def _elsewhere(name: str, file: Path) -> set[str]:
    """The files that an ONNX file keeps weights in, by their names in the bundle where they lie in it."""
    try:
        found = external_files(file)
    except ValueError:  # the runtime will say so
        return set()
    return {posixpath.normpath(posixpath.join(posixpath.dirname(name), place)) for place in found}


def untried(models: Iterable[ModelFile]) -> list[str]:
    """A sentence for each file that has not run in its own runtime yet."""
    return [
        f"{each.file} has not run in its own runtime: its accuracy and parity were computed by {each.stand_in}."
        for each in models
        if each.stand_in
    ]


def uncovered(path: str | os.PathLike[str]) -> list[str]:
    """The files in ``extra/`` that came after the bundle was written: neither manifest nor signature covers them."""
    known = listed(Path(path))
    return [name for name in names(Path(path)) if name.startswith(f"{EXTRA}/") and name not in known]


def write_json(path: Path, data: object) -> None:
    """Write JSON for people to read; equal data give equal bytes. Refuses NaN and infinity."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz; equal arrays give equal bytes (numpy's own puts the time into it)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def listed(path: Path) -> dict[str, Listed]:
    """The manifest's files."""
    missing = f"{path} is not a bundle (it has no {MANIFEST}): give the folder `mvp-deploy export` wrote."
    return read_json(path / MANIFEST, Manifest, cure=CURE, missing=missing, versions=(FORMAT,)).files


def names(path: Path) -> list[str]:
    """Every file below the folder but the manifest, sorted, with slashes. A link counts as a file."""
    found = (
        (Path(folder) / name).relative_to(path).as_posix()
        for folder, folders, files in os.walk(path)
        for name in [*files, *(name for name in folders if (Path(folder) / name).is_symlink())]
    )
    return sorted(name for name in found if name != MANIFEST)
