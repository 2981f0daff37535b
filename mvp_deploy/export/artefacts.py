"""The files of one model for every target and precision asked for, each checked in its own runtime."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from onnx import ModelProto

from mvp_deploy.base.errors import DeployError, ExitCode
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.runner import Runner, logits, open_runner
from mvp_deploy.bundle import ModelFile
from mvp_deploy.calibration.guard import Limit
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.export.graphs import Graphs, Precision
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.exporters.parity import TOLERANCE, check_parity
from mvp_deploy.exporters.protocol import Exporter, Source, exporter
from mvp_deploy.pruning.pruned import PrunedModel
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

    @property
    def labels(self) -> np.ndarray:
        labels: np.ndarray = self.test.labels.cpu().numpy()
        return labels

    def accuracy(self, found: np.ndarray) -> float:
        """The share, 0..1, of the images for which the logits [images, classes] name the right class."""
        return float((found.argmax(1) == self.labels).mean())


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
    preprocessing = loaded.backbone.preprocessing
    metadata = {"classes": list(loaded.classes), "preprocessing": preprocessing.to_json(), "model": subject.name}
    with TemporaryDirectory() as temporary:
        reporter.say(f"exporting the {subject.name} model to ONNX")
        whole = export_onnx(
            loaded.model, torch.zeros(1, *preprocessing.input_size), Path(temporary) / "fp32.onnx", metadata
        )
        graphs = Graphs(whole, images, asked, Path(temporary))
        for exporter, precision in [(each.exporter, name) for each in wanted for name in each.precisions]:
            what = f"{subject.name} {precision} for {exporter.name}"
            limit = _limit(exporter, subject, held_out, asked.max_drop)
            converted = graphs.get(precision, exporter.int8_form, limit)
            if converted.kept:
                reporter.say(f"{what} leaves out {', '.join(converted.kept)}")
            file = f"models/{subject.name}.{precision}{exporter.suffix}"
            artefact = exporter.export(_source(subject, precision, converted.path), folder / file)
            for note in artefact.notes:
                reporter.say(f"{exporter.name}: {note}")
            accuracy, parity = check_artefact(artefact.path, subject, held_out, TOLERANCE[precision])
            reporter.say(f"{what}: parity {parity:.1e}, accuracy {accuracy:.1%}")
            if precision != "fp32":
                _check_drop(what, accuracy, limit)
            files.append(
                ModelFile(
                    file=file,
                    model=subject.name,
                    target=exporter.name,
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
    with closing(open_runner(path)) as runner:
        found = _logits(runner, held_out)
        single = logits(runner, numbered(held_out.test, held_out.samples), 1)
    parity = max(
        check_parity(subject.logits, found, tolerance).relative,
        check_parity(subject.logits[held_out.samples], single, tolerance).relative,
    )
    return held_out.accuracy(found), parity


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


def _source(subject: Subject, precision: str, onnx: Path) -> Source:
    return Source(precision, onnx, subject.loaded.model.cpu(), subject.loaded.backbone.preprocessing.input_size)


def _limit(exporter: Exporter, subject: Subject, held_out: HeldOut, max_drop: float) -> Limit:
    """The accuracy to keep, judged in the exporter's own runtime: each rounds in its own way."""

    def accuracy_of(model: ModelProto) -> float:
        with TemporaryDirectory() as folder:
            onnx = Path(folder) / "tried.onnx"
            onnx.write_bytes(model.SerializeToString())
            tried = exporter.export(_source(subject, "int8", onnx), Path(folder) / f"exported{exporter.suffix}")
            with closing(open_runner(tried.path)) as runner:
                return held_out.accuracy(_logits(runner, held_out))

    return Limit(accuracy_of, held_out.accuracy(subject.logits), max_drop)


def _logits(runner: Runner, held_out: HeldOut) -> np.ndarray:
    """What the runner gives for the whole held-out part: float32 [images, classes]."""
    return np.concatenate([logits(runner, images.cpu().numpy(), BATCH) for images, _ in held_out.test.batches(BATCH)])


def _check_drop(what: str, accuracy: float, limit: Limit) -> None:
    if accuracy < limit.least:
        raise DeployError(
            f"{what} has {accuracy:.1%} accuracy where PyTorch has {limit.reference:.1%}; at most "
            f"{limit.max_drop:.1%} may be lost: allow more with --max-drop, or leave it out.",
            ExitCode.ACCURACY,
        )
