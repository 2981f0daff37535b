"""The files of one model for every target and precision asked for, each checked in its own runtime."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnx import ModelProto

from mvp_deploy.base.errors import AccuracyError, ExitCode, InputError, MvpError, error_of
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.runner import STAND_IN, Runner, logits, open_runner, runs_here
from mvp_deploy.bundle import ModelFile
from mvp_deploy.calibration.convert import Converted, convert_own_int8
from mvp_deploy.calibration.guard import Limit, allowed_drop
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.export.config import Exports
from mvp_deploy.export.graphs import Graphs
from mvp_deploy.export.subjects import Failed, HeldOut, Subject
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.exporters.parity import TOLERANCE, NoParity, Parity, check_parity
from mvp_deploy.exporters.protocol import BESIDE, Exporter, Source, exporter
from mvp_deploy.tasks import Images

BATCH = 64  # of the check on the whole held-out part; samples are checked at batch 1 too


@dataclass(frozen=True)
class Wanted:
    """One target, with those of the asked precisions that it delivers."""

    exporter: Exporter
    precisions: tuple[str, ...]


def plan(asked: Exports, reporter: Reporter) -> list[Wanted]:
    """What to make, after seeing that this machine can. What a target does not deliver is left out and told.

    Raises:
        InputError: a target delivers none of the precisions.
        EnvironmentMissing: a target's packages are missing.
    """
    wanted = []
    for found in map(exporter, dict.fromkeys(asked.targets)):
        delivered = tuple(name for name in dict.fromkeys(asked.precisions) if name in found.precisions)
        missing = [name for name in asked.precisions if name not in found.precisions]
        if not delivered:
            raise InputError(
                f"the target {found.name} does not deliver {' or '.join(missing)}: ask for "
                f"{' or '.join(found.precisions)}, or leave the target out."
            )
        if missing:
            reporter.warn(f"{found.name} does not deliver {' or '.join(missing)}: no such file is made")
        found.check()
        wanted.append(Wanted(found, delivered))
    return wanted


@dataclass(frozen=True, eq=False)
class Making:
    """How a bundle's files are made: below which folder, and by which images they are calibrated and judged."""

    asked: Exports
    folder: Path
    calibration: CalibrationImages | None
    held_out: HeldOut
    reporter: Reporter


def make(subject: Subject, wanted: Sequence[Wanted], how: Making) -> tuple[list[ModelFile], list[Failed]]:
    """Write the subject's files below models/, check each, and leave out those that do not pass.

    The others stay: that int8 is wrong does not make fp32 wrong.
    """
    files, failed, interface = [], [], subject.interface
    prepared = {} if interface.preprocessing is None else {"preprocessing": interface.preprocessing.to_json()}
    metadata = {"classes": list(interface.classes), "model": subject.name} | prepared
    with TemporaryDirectory() as temporary:
        how.reporter.say(f"exporting the {subject.name} model to ONNX")
        whole = export_onnx(subject.model, interface.example, Path(temporary) / "fp32.onnx", metadata)
        graphs = Graphs(whole, how.calibration, how.asked, Path(temporary))
        for exporter, precision in [(each.exporter, name) for each in wanted for name in each.precisions]:
            file = f"models/{subject.name}.{precision}{exporter.suffix}"
            try:
                files.append(_made(subject, exporter, precision, file, graphs, how))
            except MvpError as error:
                _remove(how.folder / file, exporter)
                told = f"{file} is left out: {error}{_cure(error, precision, exporter, how.asked)}"
                how.reporter.warn(told)
                failed.append(Failed(subject.name, exporter.name, precision, told, error.code))
    return files, failed


def _remove(path: Path, exporter: Exporter) -> None:
    """Take away what an exporter wrote, a folder or a file with what lies beside it."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if beside := BESIDE.get(exporter.suffix):
        path.with_suffix(beside).unlink(missing_ok=True)


def _made(subject: Subject, exporter: Exporter, precision: str, file: str, graphs: Graphs, how: Making) -> ModelFile:
    """Write one file and check it.

    Raises:
        MvpError: (PARITY) it differs from PyTorch by more than its precision may; (ACCURACY) it loses more than it
            may; (INPUT) the model has nothing to quantise.
    """
    what, held_out, say = f"{subject.name} {precision} for {exporter.name}", how.held_out, how.reporter.say
    own = precision == "int8" and exporter.int8_form == "own" and _has_ranges(exporter)
    converted = (
        _own_int8(subject, exporter, graphs)
        if own
        else graphs.get(precision, exporter.int8_form, lambda: _limit(exporter, subject, graphs))
    )
    if converted.kept:
        say(f"{what} leaves out {', '.join(converted.kept)}")
    artefact = exporter.export(_source(subject, precision, converted.path), how.folder / file)
    for note in artefact.notes:
        say(f"{exporter.name}: {note}")
    try:
        right, parity, stand_in = check_artefact(artefact.path, subject, held_out, precision)
    except NoParity as error:
        worst = "" if error.worst is None else f" The farthest off is {held_out.name(error.worst)}."
        raise error_of(f"{error}{worst}", error.code) from error
    say(f"{what}: parity {parity:.1e}, accuracy {right.mean():.1%}")
    if precision != "fp32":
        _check_drop(right, held_out.right(subject.logits), how.asked)
    return ModelFile(
        file=file,
        model=subject.name,
        target=exporter.name,
        precision=precision,
        accuracy=float(right.mean()),
        parity=parity,
        tolerance=TOLERANCE[precision],
        params=subject.params,
        macs=subject.macs,
        kept=converted.kept,
        tested=len(right),
        wrong=tuple(np.flatnonzero(~right).tolist()),
        stand_in=stand_in,
    )


def _has_ranges(exporter: Exporter) -> bool:
    """Whether its int8 files hold activations too, and not weights alone."""
    return exporter.int8_form != "own" or hasattr(exporter, "quantizable")


def _cure(error: MvpError, precision: str, exporter: Exporter, asked: Exports) -> str:
    """What to try where a file differs from PyTorch by too much, or loses too much accuracy."""
    if error.code not in (ExitCode.PARITY, ExitCode.ACCURACY):
        return ""
    if precision == "fp32":
        return " It must not be shipped: another version of the exporting library may do better."
    if precision == "fp16" or not _has_ranges(exporter):
        return f" Leave {precision} out of --precision."
    other = (
        "minmax, which clips no value," if asked.int8_method != "minmax" else "percentile or mse, which clip outliers,"
    )
    return f" Its ranges are by --method {asked.int8_method}: try {other} or leave int8 out of --precision."


def check_artefact(path: Path, subject: Subject, held_out: HeldOut, precision: str) -> tuple[np.ndarray, float, str]:
    """Which held-out images an artefact names rightly, bool [images], in its own runtime on the CPU, and its parity.

    Where its runtime does not exist for this system, a stand-in computes it, and is named; else that is empty.

    Parity is against PyTorch: over all images in batches, and over the samples one by one. In fp32 every image counts;
    in reduced precisions one in twenty may be a stray (a picture unlike those the ranges were measured on).

    Raises:
        NoParity: it differs by more than the precision's tolerance.
    """
    tolerance, exact = TOLERANCE[precision], precision == "fp32"
    own = runs_here(path)
    with closing(open_runner(path) if own else open_runner(path, STAND_IN)) as runner:
        stand_in = "" if own else runner.details["runtime"]
        found = _logits(runner, held_out)
        single = logits(runner, numbered(held_out.test, held_out.samples), 1)
    parity = check_parity(subject.logits, found, tolerance, exact=exact)
    one_by_one = _one_by_one(subject.logits[held_out.samples], single, held_out, tolerance, exact)
    return held_out.right(found), max(parity.relative, one_by_one.relative), stand_in


def _one_by_one(reference: np.ndarray, got: np.ndarray, held_out: HeldOut, tolerance: float, exact: bool) -> Parity:
    try:
        return check_parity(reference, got, tolerance, exact=exact)
    except NoParity as error:
        worst = None if error.worst is None else int(held_out.samples[error.worst])
        raise NoParity(f"run one by one, {error}", worst) from error


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
    interface, how = subject.interface, subject.interface.preprocessing
    source = Source(precision, onnx, subject.model.cpu(), interface.input_size, classes=interface.classes)
    return source if how is None else replace(source, mean=how.mean, std=how.std)


def _limit(exporter: Exporter, subject: Subject, graphs: Graphs) -> Limit:
    """The accuracy that may be lost on the calibration images.

    It is judged in the exporter's own runtime, since each rounds in its own way.
    """
    images = graphs.calibration

    def accuracy_of(model: ModelProto) -> float:
        with TemporaryDirectory() as folder:
            onnx = Path(folder) / "tried.onnx"
            onnx.write_bytes(model.SerializeToString())
            tried = exporter.export(_source(subject, "int8", onnx), Path(folder) / f"exported{exporter.suffix}")
            with closing(open_runner(tried.path)) as runner:
                return float((logits(runner, images.images, BATCH).argmax(1) == images.labels).mean())

    return Limit(accuracy_of, len(images), graphs.asked.max_drop)


def _own_int8(subject: Subject, exporter: Any, graphs: Graphs) -> Converted:
    """Int8 by the exporter's own quantiser, within the limit, judged in its own runtime."""
    images, tried = graphs.calibration, graphs.folder / f"tried{exporter.suffix}"

    def logits_of(content: bytes, given: np.ndarray) -> np.ndarray:
        tried.write_bytes(content)
        with closing(open_runner(tried)) as runner:
            return logits(runner, given, BATCH)

    def accuracy_of(content: bytes) -> float:
        return float((logits_of(content, images.images).argmax(1) == images.labels).mean())

    source = replace(_source(subject, "fp32", graphs.fp32), classes=())
    whole = exporter.export(source, graphs.folder / f"whole{exporter.suffix}")
    return convert_own_int8(
        exporter.quantizable(source, whole.path),
        graphs.folder / f"int8{exporter.suffix}",
        images,
        Limit(accuracy_of, len(images), graphs.asked.max_drop),
        logits_of,
        method=graphs.asked.int8_method,
    )


def _logits(runner: Runner, held_out: HeldOut) -> np.ndarray:
    """What the runner gives for the whole held-out part: float32 [images, classes]."""
    return np.concatenate([logits(runner, images.cpu().numpy(), BATCH) for images, _ in held_out.test.batches(BATCH)])


def _check_drop(right: np.ndarray, reference: np.ndarray, asked: Exports) -> None:
    """Refuse what loses more accuracy on the held-out images than it may; bool [images] each."""
    if not reference.mean() - right.mean() <= allowed_drop(asked.max_drop, len(right)):
        raise AccuracyError(
            f"it has {right.mean():.1%} accuracy on {len(right)} held-out images where PyTorch has "
            f"{reference.mean():.1%}; at most {asked.max_drop:.1%} may be lost: allow more with --max-drop."
        )
