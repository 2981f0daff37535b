"""A classification problem: labelled images, a train part and a held-out part."""

from __future__ import annotations

import csv
import difflib
import hashlib
import os
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt

from mvp_deploy.base.errors import InputError

UNLABELLED = -1
UNEVEN = 10  # times as many training images in one class as in another: worth a word
TEST_FRACTION = 0.2  # of each class, where a source comes without a held-out part


@dataclass(frozen=True, eq=False)
class Split:
    """Images: uint8 RGB pixels [n, height, width, 3] or n files, and int64 labels [n] from 0 up, or `UNLABELLED`."""

    images: npt.NDArray[np.uint8] | tuple[Path, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each image's file, or of its pixels."""
        contents = (image.read_bytes() if isinstance(image, Path) else image.tobytes() for image in self.images)
        return tuple(hashlib.sha256(content).digest() for content in contents)

    def part(self, mask: npt.NDArray[np.bool_]) -> Split:
        """The images where the mask is true, in their order."""
        if isinstance(self.images, tuple):
            return Split(tuple(compress(self.images, mask)), self.labels[mask])
        return Split(self.images[mask], self.labels[mask])

    def named(self, index: int) -> str:
        """Which image that is, for messages."""
        image = self.images[index]
        return str(image) if isinstance(image, Path) else f"number {index}"


@dataclass(frozen=True, eq=False)
class Task:
    """A classification problem. Label k means ``classes[k]``."""

    name: str  # as people gave it, or the specification it was loaded by
    classes: tuple[str, ...]
    train: Split
    test: Split  # held out: never trained on
    left_out: Mapping[str, int] = field(default_factory=dict)  # files, classes and folders not used, by reason
    converted: Mapping[str, int] = field(default_factory=dict)  # images not read just as they lie, by how
    final: Callable[[], Task] | None = None  # the task with its third part held out, where a source has three
    spec: str = ""  # the specification, where the name is another

    @property
    def source(self) -> str:
        """The specification it was loaded by, from whatever folder one asks."""
        return lasting(self.spec or self.name)

    def named(self, name: str | None) -> Task:
        """The same task under another name; under its own for None."""
        return self if name is None else replace(self, name=name, spec=self.spec or self.name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over class names, labels, images and how they are read; the same wherever the data lie."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            digest.update(split.labels.astype("<i8").tobytes())
            for image in split.digests:
                digest.update(image)
        if self.converted:  # before images were converted by rule, the same files gave other pixels
            digest.update(repr(sorted(self.converted.items())).encode())
        return digest.hexdigest()

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was left out or converted, and on what may be two of one kind."""
        return (*self.reading, *self._classes(), *self.leaked, *self._twice())

    @property
    def reading(self) -> tuple[str, ...]:
        """Sentences on what was left out or converted."""
        left_out = [f"{self.name}: left out: {told(self.left_out)}"] if self.left_out else []
        converted = [f"{self.name}: images {told(self.converted)}"] if self.converted else []
        return (*left_out, *converted)

    @cached_property
    def leaked(self) -> tuple[str, ...]:
        """A sentence where held-out images are copies of training images."""
        trained = {digest: k for k, digest in enumerate(self.train.digests)}
        again = [(k, trained[digest]) for k, digest in enumerate(self.test.digests) if digest in trained]
        if not again:
            return ()
        test, train = again[0]
        return (
            f"{self.name}: {len(again)} of {len(self.test)} held-out images are copies of training images, so that "
            f"the accuracy is too good: {self.test.named(test)} is {self.train.named(train)}",
        )

    def _classes(self) -> Iterator[str]:
        folded = Counter(name.casefold() for name in self.classes)
        if alike := [name for name in self.classes if folded[name.casefold()] > 1]:
            yield f"{self.name}: the classes {', '.join(alike)} differ only in upper and lower case"
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        if counts.max() >= UNEVEN * max(1, counts.min()):
            few, many = (self.classes[int(k)] for k in (counts.argmin(), counts.argmax()))
            yield (
                f"{self.name}: uneven classes: {few} has {counts.min()} training images and {many} {counts.max()}; "
                "accuracy says little of the rare ones (`evaluate` shows each class), and calibration takes as many of "
                "each as it can"
            )

    def _twice(self) -> Iterator[str]:
        trained = {digest: k for k, digest in enumerate(self.train.digests)}
        labels = self.train.labels.tolist()
        twice = [(k, trained[d]) for k, d in enumerate(self.train.digests) if labels[k] != labels[trained[d]]]
        if twice:
            one, other = twice[0]
            yield (
                f"{self.name}: {len(twice)} training images lie in two classes, for instance "
                f"{self.train.named(one)} and {self.train.named(other)}"
            )


def told(reasons: Mapping[str, int]) -> str:
    """What was left out or converted, by reason."""
    return ", ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))


def source_of(spec: str, base: Path = Path()) -> str:
    """The SOURCE of ``SOURCE[#class,class,…]``.

    Its path may have a # in it: it is the longest part before a # that is a file or folder (below ``base``).
    """
    ends = [k for k, letter in enumerate(spec) if letter == "#"] + [len(spec)]
    there = (k for k in reversed(ends) if k and os.path.exists(base / os.path.expanduser(spec[:k])))
    return spec[: next(there, ends[0])]


def lasting(spec: str) -> str:
    """The task's name from whatever folder one asks."""
    as_it_is = source_of(spec) == "digits" or spec.startswith("~") or "://" in spec
    return spec if as_it_is else os.path.join(os.getcwd(), spec)


def parse(spec: str) -> tuple[str, tuple[str, ...] | None]:
    """Split ``SOURCE[#class,class,…]``; a class name with a comma in it is quoted as in CSV."""
    source = source_of(spec)
    if not source:
        raise InputError(f"the task {spec!r} names no source: write SOURCE or SOURCE#class,class")
    if source == spec:
        return source, None
    names = unicodedata.normalize("NFC", spec[len(source) + 1 :])
    chosen = next(csv.reader([names], skipinitialspace=True), [])
    return source, tuple(name.strip() for name in chosen)


def split_query(source: str) -> tuple[str, str]:
    """A source, and what narrows it after a ?; a path that exists with its ?, and a URL's own query, stay whole."""
    before, mark, query = source.rpartition("?")
    if not mark or os.path.exists(os.path.expanduser(source)):
        return source, ""
    if "://" in source and not query.startswith(("limit=", "class-map=")):
        return source, ""
    return before, query


def place_of(spec: str) -> Path:
    """The file or folder of a task's SOURCE, where that is one here."""
    return Path(os.path.expanduser(split_query(source_of(spec))[0]))


def with_query(spec: str, limit: int | None, class_map: Path | None) -> str:
    """The specification with ``?limit=…&class-map=…`` after its source, replacing any it has."""
    asked = {"limit": limit, "class-map": class_map}
    query = urlencode({key: str(value) for key, value in asked.items() if value is not None})
    source = source_of(spec)
    return f"{split_query(source)[0]}?{query}{spec[len(source) :]}" if query else spec


def choose(source: str, available: Sequence[str], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes of a task, in the order asked for.

    Raises:
        MvpError: an unknown or repeated class, or fewer than two.
    """
    chosen = tuple(available) if wanted is None else wanted
    for name in chosen:
        if name not in available:
            close = difflib.get_close_matches(name, available) or available[:5]
            hint = " or ".join(repr(name) for name in close)
            raise InputError(f"{source} has no class {name!r}: did you mean {hint}?")
        if not name or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise InputError(f"the class name {name!r} of {source} cannot be shown: give it another")
        if chosen.count(name) > 1:
            raise InputError(f"the class {name!r} is named twice for {source}: name each class once")
    if len(chosen) < 2:
        have = f"only the class {chosen[0]!r}" if chosen else "no class"
        raise InputError(f"the task has {have} of {source}: it needs two at least")
    return chosen


def held_out(whole: Split, classes: Sequence[str], source: str) -> npt.NDArray[np.bool_]:
    """Choose a fifth of each class as its held-out part, one image at least: a mask over all.

    They are the images with the smallest SHA-256. So an image's part depends on its content: every task and every
    training seed holds out the same images, images that come later move but a few, and copies stay together (unless
    a class has nothing but copies of one image).
    """
    digests = np.array(whole.digests, dtype="S32")
    mask = np.zeros(len(whole), bool)
    for _, where in _by_class(whole, classes, source):
        distinct = np.unique(digests[where])  # in order
        if len(distinct) == 1:
            mask[where[: _share(len(where))]] = True
        else:
            mask[where] = digests[where] <= distinct[_share(len(distinct)) - 1]
    return mask


def drawn(whole: Split, classes: Sequence[str], source: str, seed: int) -> npt.NDArray[np.bool_]:
    """Choose a fifth of each class at random, by the seed, the class's name and its number of images.

    So the digits are split, and so were all tasks before their images' content decided: banks and runs of that time
    find theirs again.
    """
    mask = np.zeros(len(whole), bool)
    for name, where in _by_class(whole, classes, source):
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        mask[random.permutation(where)[: _share(len(where))]] = True
    return mask


def _by_class(whole: Split, classes: Sequence[str], source: str) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each class and its images' numbers. Raises InputError for a class with one image, which cannot be divided."""
    for label, name in enumerate(classes):
        where = np.flatnonzero(whole.labels == label)
        if len(where) < 2:
            raise InputError(f"class {name!r} of {source} has one image: add more")
        yield name, where


def _share(count: int) -> int:
    return max(1, round(TEST_FRACTION * count))
