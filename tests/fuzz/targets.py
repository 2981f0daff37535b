"""Every kind of file that is read, small and whole, with what reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes import report as reports
from fakes.bundle import tiny_bundle
from fakes.report import TIMES
from fakes.run import BACKBONE, DETAILS, PREPROCESSING, info
from PIL import Image

from mvp_deploy import bundle, runs
from mvp_deploy.backbones.weights import read_weights
from mvp_deploy.bank.signature import Signature
from mvp_deploy.bank.store import Bank, Record
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.base.files import sha256
from mvp_deploy.base.formats import sealed
from mvp_deploy.base.workspaces import workspaces
from mvp_deploy.benchmark.format import read_measurements
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.exporters.tensorrt import cache
from mvp_deploy.pipeline import deployfile
from mvp_deploy.pipeline.baseline import read_report
from mvp_deploy.runs import folder as folders
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import load_task, prepare
from mvp_deploy.tasks.picture import ORIENTATION

EXPECTED = {ExitCode.INPUT, ExitCode.ENVIRONMENT}


@dataclass(frozen=True)
class Target:
    """A file and what reads it; ``settle`` makes other files' checksums of it right again, so that more is tried."""

    file: Path
    read: Callable[[], Any]
    settle: Callable[[], None] = lambda: None
    sealed: bool = False  # holds a checksum of itself


def refused(read: Callable[[], Any]) -> bool:
    """Whether reading ends in a sentence (True) or well (False); whatever else it raises is a fault."""
    try:
        read()
    except MvpError as error:
        told, code = str(error), error.code
    else:
        return False
    assert code in EXPECTED, f"exit code {code}"
    assert 10 < len(told) < 5000, told[:100]
    return True


def bundle_files(folder: Path) -> list[Target]:
    path = tiny_bundle(folder / "bundle", ["fp32"])
    (path / "measurements.json").write_text(json.dumps(TIMES))

    def read() -> None:
        opened = bundle.read(path)
        _ = opened.samples, read_measurements(opened)

    def settle() -> None:
        files = {
            name: {"sha256": sha256(path / name), "bytes": (path / name).stat().st_size}
            for name in bundle.format.names(path)
            if (path / name).is_file()
        }
        (path / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))

    settle()
    names = ("bundle.json", "labels.json", "samples.npz", "measurements.json")
    return [Target(path / "manifest.json", read), *(Target(path / name, read, settle) for name in names)]


def run_files(folder: Path) -> list[Target]:
    run = folder / "run"
    with folders.writing(run):
        shared, work = workspaces(run / ".work", "0" * 16, "1" * 16)
        models = {"unpruned.safetensors": shared / "u.safetensors", "pruned.safetensors": work / "p.safetensors"}
        for path in models.values():
            tensorfile.save(path, {"plan": {}}, {"weights": {"w": torch.ones(3)}})
        for name, path in list(models.items()):
            models[name] = path.rename(path.with_name(name))
        folders.complete(run, work, info(), models)
    return [Target(run / "run.json", lambda: runs.load(run), sealed=True)]


def bank_files(folder: Path) -> list[Target]:
    bank = Bank.init(folder / "bank", BACKBONE, {"w": torch.ones(4)})
    metrics = {"accuracy": 0.9, "unpruned_accuracy": 0.9, "units": 1.0, "params": 1, "macs": 1, "unpruned_params": 1,
               "unpruned_macs": 1}  # fmt: skip
    signature = Signature(np.ones((2, 4), np.float32), np.array([3, 4]))
    plan, scores = KeepPlan({"g": np.array([True, False, True])}), {"g": np.ones(3)}
    weights = {"w": torch.ones(5, 5)}
    cost = {"steps": 1, "seconds": 1.0, "macs": 1}
    entry = bank.add(Record("t", ("a", "b"), "data", plan, weights, scores, signature, metrics, cost, DETAILS))

    def read_entry() -> None:
        found = Bank.open(bank.folder).entry("t")
        found.check()
        _ = found.plan, found.signature(), found.scores(), found.weights()

    return [
        Target(bank.folder / "bank.json", lambda: Bank.open(bank.folder), sealed=True),
        Target(bank.folder / "backbone.safetensors", lambda: Bank.open(bank.folder).state()),
        Target(entry.path, read_entry),
    ]


def other_files(folder: Path) -> list[Target]:
    config, report, weights = folder / "deploy.yaml", folder / "report.json", folder / "weights.safetensors"
    config.write_text(
        "bank: bank\nseed: 1\nbudget: {fraction: 0.3, of: units, round_to: 8}\n"
        "training: {steps: 5, lr: 0.1, flip: true}\n"
        "benchmark: {batches: [1, 8], duration: 1.5}\ngates: {min_accuracy: 0.5, latency: [{at_most_ms: 5}]}\n"
        "tasks:\n  a: {data: digits}\n  b: {data: 'x#a,b', export: {targets: [onnx], precisions: [fp32]}}\n"
    )
    report.write_text(json.dumps(reports.report()))
    from safetensors.torch import save_file

    save_file({"w": torch.ones(3, 3)}, weights)
    torch.save({"w": torch.ones(3, 3)}, folder / "weights.pth")
    calibration = folder / "calibration.npz"
    CalibrationImages(np.ones((3, 3, 4, 4), np.float32), np.arange(3)).save(calibration)
    arrays = folder / "data.npz"
    np.savez(arrays, images=np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8), labels=np.arange(20) % 2)
    table, coco = _listings(folder)
    return [
        Target(table, lambda: load_task(str(table))),
        Target(coco, lambda: load_task(str(coco))),
        Target(config, lambda: deployfile.load(config)),
        Target(report, lambda: read_report(report)),
        Target(weights, lambda: read_weights(weights)),
        Target(folder / "weights.pth", lambda: read_weights(folder / "weights.pth")),
        Target(calibration, lambda: CalibrationImages.load(calibration)),
        Target(arrays, lambda: load_task(str(arrays))),
    ]


def _listings(folder: Path) -> tuple[Path, Path]:
    """The same twelve images of two classes as a CSV and as a COCO file."""
    names = [f"{number}.png" for number in range(12)]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(folder / name)
    table, coco = folder / "images.csv", folder / "coco.json"
    lines = [f"{name},{'cat' if number % 2 else 'dog'}" for number, name in enumerate(names)]
    table.write_text("path,label\n" + "\n".join(lines) + "\n")
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "category_id": number % 2} for number in range(12)],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}],
    }
    coco.write_text(json.dumps(content))
    return table, coco


def engine_files(folder: Path) -> list[Target]:
    """An engine's description; no TensorRT is needed to read it."""
    engine = folder / "a.engine"
    gpu = {"name": "Orin", "compute_capability": "8.7", "multiprocessors": 16}
    options = {"precision": "fp16", "profiles": ["1:1:1"], "workspace": None, "level": None,
               "version_compatible": False, "hardware_compatible": False}  # fmt: skip
    identity = {"onnx": "0" * 64, "tensorrt": "10.3.0", "gpu": gpu, "options": options}
    record = {"format": 1, "identity": identity, "onnx": "a.onnx", "sha256": "0" * 64, "bytes": 4,
              "layers": {"fp16": 2}, "build_seconds": 1.0}  # fmt: skip
    cache.sidecar(engine).write_text(json.dumps(record))
    return [Target(cache.sidecar(engine), lambda: cache._record(engine))]


IMAGES = ("a.png", "a.jpg", "a.gif", "a.tif", "a.webp", "a.bmp")


def image_files(folder: Path) -> list[Target]:
    """Of each format one image, the only training image of its class."""
    draw = np.random.default_rng(0)

    def image(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        Image.fromarray(draw.integers(0, 256, (9, 12, 3), np.uint8)).save(path, exif=exif)
        return path

    def target(name: str) -> Target:
        data = folder / f"images-{name[2:]}"
        for place in ("train/b", "val/a", "val/b"):
            image(data / place / "whole.png")

        def read() -> None:
            task = load_task(str(data))
            _ = next(prepare(task.train, PREPROCESSING).batches(4)), task.notes

        return Target(image(data / "train/a" / name), read)

    return [target(name) for name in IMAGES]


def all_targets(folder: Path) -> list[Target]:
    """One of each kind, in a new folder."""
    makers = (bundle_files, run_files, bank_files, other_files, engine_files, image_files)
    return [target for make in makers for target in make(folder)]


def reseal(content: bytes) -> bytes:
    """A sealed JSON file's content with its checksum right again, where it is JSON that has one."""
    try:
        data = json.loads(content)
        data.pop("sha256")
        return json.dumps(sealed(data)).encode()
    except (ValueError, AttributeError, KeyError, RecursionError, TypeError):
        return content
