"""The files of one model for every target and precision asked for, each checked in its own runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from calibration.images import CalibrationImages
from exporters.onnx import export_onnx
from exporters.parity import TOLERANCE, check_parity
from exporters.protocol import Exporter, Source, exporter
from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.bundle import ModelFile
from mvp_deploy.errors import DeployError, ExitCode
from mvp_deploy.graphs import Graphs, Precision
from mvp_deploy.pruned import PrunedModel
from mvp_deploy.reporter import Reporter
from mvp_deploy.tasks import Images

BATCH = 64  # of the check on the whole held-out part; samples are checked at batch 1 too
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, eq=False)
class Subject:
    """A PyTorch model to export, and what its artefacts must give."""

    name: str  # 'pruned' or 'unpruned'
    loaded: PrunedModel
    params: int
    macs: int
    logits: np.ndarray  # float32 [held-out images, classes]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The task's held-out part, and the numbers of the images that are also checked one by one."""

    test: Images
    samples: np.ndarray

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for images, labels in self.test.batches(BATCH):
            yield images.cpu().numpy(), labels.cpu().numpy()

    @property
    def labels(self) -> np.ndarray:
        labels: np.ndarray = self.test.labels.cpu().numpy()
        return labels


@dataclass(frozen=True)
class Wanted:
    """One target, with those of the asked precisions that it delivers."""

    exporter: Exporter
    precisions: tuple[str, ...]


def plan(targets: Sequence[str], precisions: Sequence[str], reporter: Reporter) -> list[Wanted]:
    """What to make, after seeing that this machine can. What a target does not deliver is left out and told.

    Raises:
        DeployError: (INPUT) an unknown target or precision, or a target that delivers none of the precisions;
            (ENVIRONMENT) a target's packages are missing.
    """
    for name in precisions:
        if name not in PRECISIONS:
            raise DeployError(f"there is no precision {name!r}: ask for {', '.join(PRECISIONS)}.")
    wanted = []
    for found in map(exporter, dict.fromkeys(targets)):
        delivered = tuple(name for name in dict.fromkeys(precisions) if name in found.precisions)
        missing = [name for name in precisions if name not in found.precisions]
        if not delivered:
            raise DeployError(
                f"the target {found.name} does not deliver {' or '.join(missing)}: ask for "
                f"{' or '.join(found.precisions)}, or leave the target out."
            )
        if missing:
            reporter.warn(f"{found.name} does not deliver {' or '.join(missing)}: no such file is made")
        found.check()
        wanted.append(Wanted(found, delivered))
    return wanted


def make(
    subject: Subject,
    wanted: Sequence[Wanted],
    asked: Precision,
    folder: Path,
    images: CalibrationImages | None,
    held_out: HeldOut,
    reporter: Reporter,
) -> list[ModelFile]:
    """Write the subject's files below ``folder``/models, and check each.

    Raises:
        DeployError: (PARITY) a file differs from PyTorch by more than its precision may; (ACCURACY) it loses more
            than the limit.
    """
    loaded, files = subject.loaded, []
    shape = loaded.backbone.preprocessing.input_size
    metadata = {
        "classes": list(loaded.classes),
        "preprocessing": loaded.backbone.preprocessing.to_json(),
        "model": subject.name,
    }
    with TemporaryDirectory() as on_the_way:
        reporter.say(f"exporting the {subject.name} model to ONNX")
        whole = export_onnx(loaded.model, torch.zeros(1, *shape), Path(on_the_way) / "fp32.onnx", metadata)
        graphs = Graphs(whole, images, held_out.batches, asked, Path(on_the_way))
        for target in wanted:
            for precision in target.precisions:
                name, form = target.exporter.name, target.exporter.int8_form
                converted = graphs.get(precision, form)
                if converted.kept:
                    reporter.say(f"{subject.name} {precision} for {name} leaves out {', '.join(converted.kept)}")
                source = Source(precision, converted.path, loaded.model.cpu(), shape)
                file = f"models/{subject.name}.{precision}{target.exporter.suffix}"
                artefact = target.exporter.export(source, folder / file)
                for note in artefact.notes:
                    reporter.say(f"{name}: {note}")
                accuracy, parity = check_artefact(artefact.path, subject, held_out, TOLERANCE[precision])
                reporter.say(f"{subject.name} {precision} for {name}: parity {parity:.1e}, accuracy {accuracy:.1%}")
                if precision != "fp32":
                    _check_drop(f"{subject.name} {precision} for {name}", subject, held_out, accuracy, asked.max_drop)
                files.append(
                    ModelFile(
                        file=file,
                        model=subject.name,
                        target=name,
                        precision=precision,
                        accuracy=accuracy,
                        parity=parity,
                        tolerance=TOLERANCE[precision],
                        params=subject.params,
                        macs=subject.macs,
                        kept=converted.kept,
                    )
                )
    return files


def check_artefact(path: Path, subject: Subject, held_out: HeldOut, tolerance: float) -> tuple[float, float]:
    """An artefact's accuracy (0..1) on the held-out part, in its own runtime on the CPU, and its parity.

    Parity is against PyTorch: over all images in batches, and over the samples one by one.

    Raises:
        DeployError: (PARITY) it differs by more than ``tolerance``.
    """
    runner = open_runner(path)
    try:
        found = np.concatenate([logits(runner, images, BATCH) for images, _ in held_out.batches()])
        single = logits(runner, numbered(held_out.test, held_out.samples), 1)
    finally:
        runner.close()
    parity = max(
        check_parity(subject.logits, found, tolerance).relative,
        check_parity(subject.logits[held_out.samples], single, tolerance).relative,
    )
    return _accuracy(found, held_out), parity


def numbered(images: Images, index: np.ndarray) -> np.ndarray:
    """The images with these numbers, in rising order, prepared: float32 [len(index), 3, H, W]."""
    wanted = set(index.tolist())
    found = [
        x[None].cpu().numpy()
        for start, (batch, _) in enumerate(images.batches(BATCH))
        for offset, x in enumerate(batch)
        if start * BATCH + offset in wanted
    ]
    return np.concatenate(found)


def _accuracy(found: np.ndarray, held_out: HeldOut) -> float:
    return float((found.argmax(1) == held_out.labels).mean())


def _check_drop(what: str, subject: Subject, held_out: HeldOut, accuracy: float, limit: float) -> None:
    reference = _accuracy(subject.logits, held_out)
    if accuracy < reference - limit:
        raise DeployError(
            f"{what} has {accuracy:.1%} accuracy where PyTorch has {reference:.1%}; at most {limit:.1%} may be lost: "
            "allow more with --max-drop, or leave it out.",
            ExitCode.ACCURACY,
        )
