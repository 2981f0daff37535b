"""The pieces of a profile as one file: from the workstation to a device."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import atomic_write
from mvp_deploy.base.formats import Malformed, damaged, loads, parse, reading_errors
from mvp_deploy.latency.format import Subject

SUBJECT = "subject.json"
SUFFIX = ".zip"
MAX_PIECE = 2**31  # bytes, of what an ONNX file can hold
MAX_TEXT = 64 * 2**20
CURE = "make the pieces again with `mvp-deploy profile BACKBONE --out PIECES.zip`"


def names(variants: int) -> list[str]:
    """The files of so many variants."""
    return [SUBJECT, *(f"{number:02}.{suffix}" for number in range(variants) for suffix in ("json", "onnx"))]


def pack(folder: Path, variants: int, file: Path) -> None:
    """Write the folder's pieces as one file."""
    with atomic_write(file) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names(variants):
            archive.write(folder / name, name)


def unpack(file: Path, folder: Path) -> None:
    """Put a file's pieces into ``folder``; those that are there stay.

    Raises:
        MvpError: it is not such a file, or damaged.
    """
    with reading_errors(file):
        try:
            with zipfile.ZipFile(file) as archive:
                found = {info.filename: info for info in archive.infolist()}
                if SUBJECT not in found or found[SUBJECT].file_size > MAX_TEXT:
                    raise Malformed(f"it has no {SUBJECT}")
                subject = parse(Subject, loads(archive.read(SUBJECT)))
                wanted = names(len(subject.variants))
                for name in wanted:
                    if name not in found or found[name].file_size > (MAX_TEXT if name.endswith("json") else MAX_PIECE):
                        raise Malformed(f"{name} is missing or too large")
                folder.mkdir(parents=True, exist_ok=True)
                for name in [*wanted[1:], SUBJECT]:  # the subject last: a folder with it is whole
                    if not (folder / name).exists():
                        _extract(archive, name, folder / name)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, Malformed) as error:
            raise damaged(file, error, CURE) from error


def _extract(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    with archive.open(name) as source, atomic_write(path) as unfinished, unfinished.open("wb") as target:
        shutil.copyfileobj(source, target)


def remove(folder: Path, variants: int) -> None:
    """Remove the pieces that a finished profile no longer needs, and the folder if nothing else is in it."""
    for name in [*names(variants), "visits.json"]:
        (folder / name).unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def check_suffix(out: Path) -> None:
    if out.suffix not in (".json", SUFFIX):
        raise InputError(f"--out {out} must end in .json (a profile) or {SUFFIX} (the pieces for a device).")
