"""Images that lie in archives, written once as files into the cache, by the archive's content."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.fetching import cache
from mvp_deploy.base.files import locked, sha256
from mvp_deploy.base.folders import atomic_folder
from mvp_deploy.tasks.listing import Listing, merged, part_of

INDEX = "labels.csv"
PATIENCE = 3600.0  # seconds: tasks of one archive that start at the same time unpack it once


class Labelled(NamedTuple):
    """An encoded image, its file's suffix, and its class."""

    content: bytes
    suffix: str
    label: str


def list_unpacked(
    where: str,
    archives: Sequence[Path],
    samples: Callable[[Path], Iterable[Labelled]],
    words: Collection[str],
    called: str,
) -> Listing:
    """The images in archives.

    Args:
        where: the source, for messages.
        samples: what an archive holds.
        words: with which of them a name says the part that its archive is of.
        called: archives of such names, for the message where some have one and others have none.
    """
    parts: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for archive in archives:
        word = re.split(r"[^a-z]", archive.name.lower())[0]
        parts[part_of(word, where) if word in words else ""] += unpacked(archive, samples)
    if len(parts) > 1 and "" in parts:
        raise InputError(f"{where} has {called} and others: name all of them so, or none")
    return Listing(where, merged(parts))


def unpacked(archive: Path, samples: Callable[[Path], Iterable[Labelled]]) -> list[tuple[str, Path]]:
    """Class and file of each image in the archive, in its order; written again where the cache has lost one."""
    folder = cache() / "unpacked" / sha256(archive)[:32]
    if found := _whole(folder):
        return found
    busy = f"another process has been unpacking {archive} for an hour: end it, or wait for it."
    with locked(folder.with_name(f".{folder.name}.unpacking"), busy, wait=PATIENCE):
        if not _whole(folder):
            with atomic_folder(folder, partial(_free, folder), _remove) as fresh:
                _write(fresh, samples(archive))
    return _whole(folder)


def _whole(folder: Path) -> list[tuple[str, Path]]:
    """Class and file of each image that was unpacked; nothing where one of them is missing."""
    if not (folder / INDEX).is_file():
        return []
    with (folder / INDEX).open(newline="", encoding="utf-8") as file:
        found = [(label, folder / name) for label, name in csv.reader(file)]
    return found if all(path.is_file() for _, path in found) else []


def _write(fresh: Path, samples: Iterable[Labelled]) -> None:
    with (fresh / INDEX).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        for number, sample in enumerate(samples):
            name = f"{number:08}-{hashlib.sha256(sample.content).hexdigest()[:12]}{sample.suffix}"
            (fresh / name).write_bytes(sample.content)
            rows.writerow((sample.label, name))


def _free(folder: Path) -> None:
    if folder.exists() and not (folder / INDEX).is_file():
        raise InputError(f"{folder} in the cache is not what this program writes: remove it")


def _remove(folder: Path) -> None:
    """What another process wrote meanwhile, from the same archive."""
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
