"""The deployable folder: models, labels, preprocessing, samples, and a manifest with every file's checksum.

    manifest.json       format, and sha256 and size of every other file
    bundle.json         task, backbone, licence, versions, and a record of each model (``ModelFile``)
    models/             <pruned|unpruned>.<precision>.onnx, and other targets' files
    labels.json         class names, in the order of the logits
    preprocessing.json  from an image to the input
    keep_plan.json      which units of the original backbone stayed
    calibration.npz     training images, prepared: what the ranges of fp16 and int8 models were measured on
    samples.npz         held-out images, prepared, with labels and the PyTorch models' logits, for parity
    measurements.json   latencies measured before the bundle was written
    example.py          classifies an image with numpy, Pillow and onnxruntime alone
    model.sig           the owner's signature of all this, where it was signed; not in the manifest
    built/              what was built from it on the machine where it lies (engines); not in the manifest

Needs numpy alone: a device reads and verifies bundles.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mvp_deploy.base.errors import DeployError
from mvp_deploy.base.files import sha256
from mvp_deploy.base.folders import restore

FORMAT = 1
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"  # OpenSSF Model Signing's usual name
BUILT = "built"
MAX_SAMPLES = 64


@dataclass(frozen=True)
class ModelFile:
    """One model in a bundle. ``accuracy`` and ``parity`` were measured in the runtime the file is for."""

    file: str  # inside the bundle, with slashes
    model: str  # 'pruned' or 'unpruned'
    target: str  # 'onnx', 'openvino', ...
    precision: str  # 'fp32', 'fp16' or 'int8'
    accuracy: float  # 0..1, on ``tested`` of the held-out images (all, but of engines the samples)
    parity: float  # what the images' logits are off from PyTorch's, relative to their size (exporters.parity)
    tolerance: float  # how large that may be
    params: int
    macs: int  # multiply-accumulates for one image
    kept: tuple[str, ...] = ()  # ONNX nodes left in a higher precision: they overflow fp16, or int8 costs too much
    tested: int = 0  # images the accuracy was measured on
    wrong: tuple[int, ...] = ()  # numbers of the held-out images it names wrongly; () where not all were tested


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are as they were written."""

    path: Path
    info: Mapping[str, Any]  # bundle.json
    classes: tuple[str, ...]
    models: tuple[ModelFile, ...]

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """``images`` float32 [n, 3, H, W], ``labels`` int64 [n], each model's logits float32 [n, classes]."""
        with np.load(self.path / "samples.npz", allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def read(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle after checking every file against the manifest.

    Raises:
        DeployError: it is no bundle, of another format, or not as it was written.
    """
    path = Path(path)
    if problems := verify(path):
        raise DeployError(
            f"{path} is not as it was written ({'; '.join(problems[:3])}): copy it again or export it again."
        )
    info = _read_json(path / "bundle.json")
    return Bundle(
        path=path,
        info=info,
        classes=tuple(_read_json(path / "labels.json")),
        models=tuple(ModelFile(**record) for record in info["models"]),
    )


def read_measurements(bundle: Bundle) -> dict[str, Any] | None:
    """measurements.json: environment and rows as ``benchmark.compare.Benchmark.to_json`` gives them.

    None where nothing was timed when the bundle was written, or other work disturbed it.
    """
    file = bundle.path / "measurements.json"
    return dict(_read_json(file)) if file.is_file() else None


def is_bundle(path: Path) -> bool:
    """Whether there is a bundle, whole or not."""
    restore(path)
    return (path / MANIFEST).is_file()


def verify(path: str | os.PathLike[str]) -> list[str]:
    """What is wrong with the files: a line for each that is changed, missing or added; empty when whole.

    Raises:
        DeployError: it is no bundle, of another format, or its manifest names a path outside its folder.
    """
    path = Path(path)
    if not is_bundle(path):
        raise DeployError(f"{path} is no bundle (it has no {MANIFEST}): give the folder `mvp-deploy export` wrote.")
    expected_files = listed(path)
    problems = []
    for name, expected in expected_files.items():
        file = inside(path, name)
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != expected["bytes"] or sha256(file) != expected["sha256"]:
            problems.append(f"{name} is changed")
    extra = (name for name in names(path) if name != SIGNATURE and not name.startswith(f"{BUILT}/"))
    added = [name for name in extra if name not in expected_files]
    return problems + [f"{name} is added" for name in added]


def inside(folder: Path, name: str) -> Path:
    """The file called ``name`` (with slashes) in ``folder``.

    Raises:
        DeployError: the name leads elsewhere: absolute, with ``..``, or through a link.
    """
    parts = PurePosixPath(name).parts
    plain = bool(parts) and "/".join(parts) == name and not {"..", "/"} & set(parts)
    if not plain or "\\" in name or "\0" in name or ":" in name:
        raise DeployError(f"the manifest of {folder} names {name!r}, which is no path inside it: do not trust it.")
    file = folder.joinpath(*parts)
    if not file.resolve().is_relative_to(folder.resolve()):
        raise DeployError(f"{file} leads out of its folder by a link: do not trust this bundle.")
    return file


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


def listed(path: Path) -> dict[str, dict[str, Any]]:
    """The manifest's files."""
    manifest = _read_json(path / MANIFEST)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DeployError(
            f"{path} has bundle format {found} and this version reads {FORMAT}: use the mvp-deploy that wrote it."
        )
    try:
        return {name: {"sha256": str(f["sha256"]), "bytes": int(f["bytes"])} for name, f in manifest["files"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DeployError(f"{path / MANIFEST} is damaged ({error!r}): copy the bundle again.") from error


def names(path: Path) -> list[str]:
    """Every file below the folder but the manifest, sorted, with slashes. A link counts as a file."""
    found = (
        (Path(folder) / name).relative_to(path).as_posix()
        for folder, folders, files in os.walk(path)
        for name in [*files, *(name for name in folders if (Path(folder) / name).is_symlink())]
    )
    return sorted(name for name in found if name != MANIFEST)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DeployError(f"{path} is damaged ({error}): copy the bundle again.") from error
