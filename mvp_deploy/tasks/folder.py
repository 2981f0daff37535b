"""Folders of images, one folder per class: which files they hold, and what those are."""

from __future__ import annotations

import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.base.files import files_below
from mvp_deploy.tasks import picture
from mvp_deploy.tasks.task import UNLABELLED, Split

PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}
PHOTOS = {".heic", ".heif", ".jxl", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"}
DARK = 16  # of 255: 16-bit images none of which is brighter are 12-bit ones, and would be read as black


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """The image as uint8 RGB [height, width, 3]; raises MvpError when it cannot be decoded."""
    try:
        return picture.read(path).pixels
    except picture.Unreadable as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InputError(f"{path} does not exist: check the path") from error
        raise _unreadable(path, error, "replace or remove it") from error


@dataclass(frozen=True)
class Found:
    """The readable images of each class, what was left out, by reason, and how images are converted."""

    files: Mapping[str, list[Path]]
    left_out: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)

    def split(self, classes: tuple[str, ...]) -> Split:
        paths = tuple(path for name in classes for path in self.files[name])
        labels = [k for k, name in enumerate(classes) for _ in self.files[name]]
        return Split(paths, np.array(labels, np.int64))


def class_files(
    root: Path, wanted: Collection[str] | None = None, *, strict: bool = True
) -> tuple[dict[str, list[Path]], Counter[str]]:
    """The files of each class folder in ``root``, those in folders below included, and what lies beside them.

    Args:
        wanted: the classes to look into; of others the name alone is given.
        strict: refuse a folder without class folders, and one of parts of the data (train/, val/, …).
    """
    folders, left_out = entries(root)
    if strict and not folders:
        raise InputError(f"{root} has no class folders: put each class's images into a folder of its name")
    chosen = [name for name in folders if wanted is None or name in wanted]
    if strict:
        for name in chosen:
            _no_parts(folders[name], [entry.name for entry in folders[name].iterdir() if entry.is_dir()])
        _no_parts(root, chosen, least=2)
    found = {name: [path for path in files_below(folders[name]) if counts(path)] for name in chosen}
    return {name: found.get(name, []) for name in folders}, left_out


def photographs(root: Path, most: int) -> tuple[Split, Counter[str]]:
    """Images without labels (-1) from anywhere below a folder, and what was left out, by reason.

    Of more than ``most`` so many are taken, by their names, in no order that a camera gives them.

    Raises:
        InputError: there is no such folder, or no image in it can be read.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give one of photographs, which may lie in folders of its own.")
    try:
        below = [path for path in files_below(root) if counts(path)]
    except OSError as error:
        raise EnvironmentMissing(f"{root} cannot be read ({error}): check its permissions") from error
    images = [path for path in below if path.name[0] != "." and _ending(path) in ("", *_endings())]
    drawn = sorted(images, key=lambda path: zlib.crc32(os.fsencode(path.relative_to(root))))[:most]
    others = sorted({*below} - {*images})
    found = check(str(root), {"": [*sorted(drawn), *others]}, Counter(), named=False, skip_bad=True)
    if not found.files:
        raise InputError(f"{root} holds no readable image, nor do the folders below it: name a folder of photographs.")
    split = found.split(("",))
    return Split(split.images, np.full(len(split), UNLABELLED, np.int64)), found.left_out


def check(
    where: str, files: Mapping[str, Sequence[Path]], left_out: Counter[str], named: bool, skip_bad: bool
) -> Found:
    """Decode every file of each class once: those that are images, and what is left out.

    Args:
        where: the source, for messages.
        left_out: what is left out already, by reason; it is added to.
        named: whether somebody asked for these classes, so that none of them may be left out.

    Raises:
        MvpError: an image cannot be read, or a class has none (unless ``skip_bad`` leaves such out), or all would be
            black.
    """
    images: dict[str, list[Path]] = {name: [] for name in files}
    listed = [(name, path) for name, paths in files.items() for path in paths]
    errors, converted, deep = [], Counter[str](), []
    with ThreadPoolExecutor() as threads:  # decoding does not hold Python's lock
        glances = threads.map(_glance, [path for _, path in listed])
        for (name, path), glance in zip(listed, glances, strict=True):
            if isinstance(glance, MvpError):
                errors.append(glance)
            elif isinstance(glance, str):
                left_out[glance] += 1
            else:
                images[name].append(path)
                converted.update(glance.conversions)
                if picture.DEEP in glance.conversions:
                    deep.append((glance.brightest, path))
    if errors and not skip_bad:
        raise errors[0]
    if errors:
        left_out["unreadable images"] += len(errors)
    if deep and max(deep)[0] < DARK:
        raise InputError(
            f"the 16-bit images of {where} use less than a sixteenth of their range and would be read as black, for "
            f"instance {deep[0][1]}: scale them to 0..65535, or save them with 8 bits"
        )
    empty = [name for name, paths in images.items() if not paths]
    if empty and (named or not skip_bad):
        cure = "do not name the class" if skip_bad else "remove the class, or pass --skip-bad"
        raise InputError(f"the class {empty[0]!r} of {where} holds no readable image: add some, or {cure}")
    if empty:
        left_out["classes without a readable image"] += len(empty)
    return Found({name: paths for name, paths in images.items() if paths}, left_out, converted)


def entries(root: Path) -> tuple[dict[str, Path], Counter[str]]:
    """The class folders by name, in order, and what lies beside them and is left out, by reason."""
    folders: dict[str, Path] = {}
    left_out = Counter[str]()
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        name = unicodedata.normalize("NFC", path.name)
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if name in folders:
                raise InputError(
                    f"{root} has the class folder {name!r} twice, in two ways of writing Unicode (NFC, NFD): merge them"
                )
            folders[name] = path
        elif not path.exists():
            left_out["dead links"] += 1
        elif path.suffix.lower() in _endings():
            left_out["images beside the class folders"] += 1
    return dict(sorted(folders.items())), left_out


def _no_parts(where: Path, names: Sequence[str], least: int = 1) -> None:
    """Refuse folders that would mix training and held-out images as if their names were classes', or none."""
    parts = [name for name in names if name.lower() in PARTS]
    if len(parts) >= least:
        raise InputError(
            f"{where} has the folder{'s' * (len(parts) > 1)} {', '.join(parts)} where classes are looked for: the two "
            "parts are named train/ and val/ (or test/), with the class folders in them"
        )


class _Glance(NamedTuple):
    """What a check of an image found."""

    conversions: tuple[str, ...]
    brightest: int  # its largest value, 0 to 255


def _glance(path: Path) -> _Glance | str | MvpError:
    """Decode the file to its end: what was found, or why it is left out, or why it cannot be read."""
    if path.name.startswith("."):
        return "hidden files"
    if not path.is_file():
        if not path.exists() and not path.is_symlink():  # a table names it
            return _unreadable(path, FileNotFoundError("there is no such file"))
        return "dead links" if path.is_symlink() else "special files"
    ending = _ending(path)
    if ending and ending not in _endings():
        return f"{ending} files" + " to convert to JPEG or PNG" * (ending in PHOTOS)
    try:
        seen = picture.read(path, glance=True)
    except picture.Unreadable as error:
        if not ending and isinstance(error.__cause__, UnidentifiedImageError):
            return "files without a suffix that are not images"
        return _unreadable(path, error)
    return _Glance(seen.conversions, int(seen.pixels.max()))


def counts(path: Path) -> bool:
    """Whether a file is worth a word: what systems hide is not, unless it is named like an image."""
    return not path.name.startswith(".") or path.suffix.lower() in _endings()


def _ending(path: Path) -> str:
    """A file's suffix in lower case; none for what follows a dot in «photo 12.30» or «Dr. Smith»."""
    return path.suffix.lower() if re.fullmatch(r"\.[0-9]*[A-Za-z]\w*", path.suffix) else ""


@lru_cache(maxsize=1)
def _endings() -> frozenset[str]:
    """The suffixes of the formats that are read."""
    formats = Image.registered_extensions()
    return frozenset(ending for ending, name in formats.items() if name in {*picture.FORMATS, "MPO"})


def _unreadable(path: Path, error: Exception, cure: str = "replace it, remove it, or pass --skip-bad") -> MvpError:
    return InputError(f"{path} cannot be read as an image ({error}): {cure}")
