"""A classification problem: labelled images, a train part and a held-out part."""

from __future__ import annotations

import csv
import difflib
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvp_deploy.base.errors import DeployError

TEST_FRACTION = 0.2  # of each class, where a source comes without a held-out part


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: uint8 RGB pixels [n, height, width, 3] or n files, and int64 labels [n] from 0 up."""

    images: npt.NDArray[np.uint8] | tuple[Path, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem. Label k means ``classes[k]``."""

    name: str  # the specification it was loaded by
    classes: tuple[str, ...]
    train: Split
    test: Split  # held out: never trained on
    skipped: int = 0  # unusable files and classes left out, by skip_bad

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over class names, labels and images; the same wherever the data lie. Reads every file."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            digest.update(split.labels.astype("<i8").tobytes())
            for image in split.images:
                content = image.read_bytes() if isinstance(image, Path) else image.tobytes()
                digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def parse(spec: str) -> tuple[str, tuple[str, ...] | None]:
    """Split ``SOURCE[#class,class,…]``; a class name with a comma in it is quoted as in CSV."""
    source, found, names = spec.partition("#")
    if not source:
        raise DeployError(f"the task {spec!r} names no source: write SOURCE or SOURCE#class,class")
    if not found:
        return source, None
    return source, tuple(name.strip() for name in next(csv.reader([names], skipinitialspace=True), []))


def choose(source: str, available: Sequence[str], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes of a task, in the order asked for.

    Raises:
        DeployError: an unknown or repeated class, or fewer than two.
    """
    chosen = tuple(available) if wanted is None else wanted
    for name in chosen:
        if name not in available:
            close = difflib.get_close_matches(name, available) or available[:5]
            hint = " or ".join(repr(name) for name in close)
            raise DeployError(f"{source} has no class {name!r}: did you mean {hint}?")
        if chosen.count(name) > 1:
            raise DeployError(f"the class {name!r} is named twice for {source}: name each class once")
    if len(chosen) < 2:
        have = f"only the class {chosen[0]!r}" if chosen else "no class"
        raise DeployError(f"the task has {have} of {source}: it needs two at least")
    return chosen


def held_out(labels: Iterable[str], source: str, seed: int) -> npt.NDArray[np.bool_]:
    """Choose a fifth of each class at random as its held-out part, one image at least: a mask over all.

    A class's draw depends on the seed, its name and its number of images only, so that tasks sharing a class
    hold out the same images of it.
    """
    names = np.asarray(list(labels))
    mask = np.zeros(len(names), bool)
    for name in np.unique(names):
        where = np.flatnonzero(names == name)
        if len(where) < 2:
            raise DeployError(f"class {str(name)!r} of {source} has one image: add more")
        random = np.random.default_rng([seed, zlib.crc32(str(name).encode())])
        mask[random.permutation(where)[: max(1, round(TEST_FRACTION * len(where)))]] = True
    return mask
