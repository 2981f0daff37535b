"""The pieces of a profile as one file: from the workstation to a device."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import atomic_write, write_text
from mvp_deploy.base.formats import Malformed, damaged, loads, parse, read_json, reading_errors
from mvp_deploy.latency.format import CURE as AGAIN
from mvp_deploy.latency.format import FORMAT, Subject

SUBJECT = "subject.json"
FLOAT32 = "fp32.onnx"  # the unpruned model, beside the pieces of another precision
SUFFIX = ".zip"
MAX_PIECE = 2**31  # bytes, of what an ONNX file can hold
MAX_TEXT = 64 * 2**20
CURE = "make the pieces again with `mvp-deploy profile BACKBONE --out PIECES.zip`"


def flagged(path: Path) -> Path:
    """The ONNX file beside ``path`` for the TensorRT releases whose builder flags, not the graph, decide precision."""
    return path.with_suffix(".flags.onnx")


def names(subject: Subject) -> list[str]:
    """The files of its pieces."""
    pieces = [Path(f"{number:02}.onnx") for number in range(len(subject.variants))]
    both = subject.form == "engine" and subject.precision != "fp32"
    files = [(piece.with_suffix(".json"), piece, *([flagged(piece)] if both else [])) for piece in pieces]
    whole = [] if subject.precision == "fp32" else [FLOAT32]
    return [SUBJECT, *whole, *(str(file) for each in files for file in each)]


def pack(folder: Path, subject: Subject, file: Path) -> None:
    """Write the folder's pieces as one file."""
    with atomic_write(file) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names(subject):
            archive.write(folder / name, name)


def begin(folder: Path, subject: Subject) -> None:
    """Make ``folder`` the subject's; go on in one that is. Raises MvpError if it is another one's."""
    file = folder / SUBJECT
    if not file.exists():
        remove(folder)  # what is of nobody, since a finished profile was killed while it was cleared away
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(asdict(subject)))
    elif (there := read_json(file, Subject, cure=AGAIN, versions=(FORMAT,))) != subject:
        raise InputError(
            f"{folder} holds the unfinished profile of something else ({there}), and {subject} is asked for: finish "
            "that, or remove it."
        )


def unpack(file: Path, folder: Path) -> None:
    """Put a file's pieces into ``folder``; those that are there already stay.

    Raises:
        MvpError: it is not such a file, or damaged, or the folder holds the pieces of another subject.
    """
    with _opened(file) as archive:
        found, subject = {info.filename: info for info in archive.infolist()}, _subject(archive)
        wanted = names(subject)
        for name in wanted:
            if name not in found or found[name].file_size > (MAX_TEXT if name.endswith("json") else MAX_PIECE):
                raise Malformed(f"{name} is missing or too large")
        begin(folder, subject)
        for name in wanted:
            if not (folder / name).exists():
                _extract(archive, name, folder / name)


def subject_of(file: Path) -> Subject:
    """What a file's pieces are of. Raises MvpError if it is not such a file, or damaged."""
    with _opened(file) as archive:
        return _subject(archive)


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    with reading_errors(file):
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, RuntimeError, EOFError, Malformed) as error:
            raise damaged(file, error, CURE) from error


def _subject(archive: zipfile.ZipFile) -> Subject:
    found = archive.NameToInfo.get(SUBJECT)
    if found is None or found.file_size > MAX_TEXT:
        raise Malformed(f"it has no {SUBJECT}")
    return parse(Subject, loads(archive.read(SUBJECT)))


def _extract(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    with archive.open(name) as source, atomic_write(path) as unfinished, unfinished.open("wb") as target:
        shutil.copyfileobj(source, target)


def remove(folder: Path) -> None:
    """Remove the pieces that a finished profile no longer needs, their engines, and the folder if it is empty then."""
    for path in [folder / SUBJECT, folder / "visits.json", *folder.glob("fp32.*"), *folder.glob("[0-9][0-9]*.*")]:
        path.unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def check_suffix(out: Path) -> None:
    if out.suffix not in (".json", SUFFIX):
        raise InputError(f"--out {out} must end in .json (a profile) or {SUFFIX} (the pieces for a device).")
