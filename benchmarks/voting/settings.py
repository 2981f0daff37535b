"""The settings of the study: which tasks are in the bank, which are targets, what the backbone has seen.

random     CIFAR-100, tasks of 5 classes drawn at random for bank and targets alike (Zhao et al. 2023's setting)
disjoint   CIFAR-100, bank tasks from 3 classes of every superclass, targets from the other 2
alphabets  Omniglot, tasks are alphabets: background ones in the bank, evaluation ones as targets
transfer   the bank of `random`; targets are 5-class tasks of Caltech-101
foreign    the bank of `random`; targets are Omniglot's alphabets: what becomes of tasks that no neighbour is near to
mixed      half of the bank from `random`, half alphabets; half of the targets of each kind

The backbone is pretrained on the bank's side only: the 60 bank classes of `disjoint` for all CIFAR banks, every
background character for Omniglot. In `random` a target may thus share classes with bank and backbone.

Recipes are tried on other tasks than the targets, drawn the same way (`development`): the targets are for the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from mvp_deploy.tasks.task import Split, Task

SIZE = 32  # pixels
BANK, TARGETS = 20, 20
CLASSES = 5  # of a task
TEST_DRAWERS = 5  # of Omniglot's twenty
DEVELOPMENT = 10  # added to the seed that targets are drawn by


@dataclass(frozen=True)
class Data:
    """A data set in memory: uint8 RGB images [n, 32, 32, 3], labels, and which images are held out."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray  # bool [n]
    classes: tuple[str, ...]
    families: np.ndarray  # of each class: superclass or alphabet, int [classes]
    background: np.ndarray  # of each class: whether it is the bank's side of the split, bool [classes]

    def task(self, name: str, classes: Sequence[int]) -> Task:
        """The task of telling these classes apart."""
        return Task(
            f"{self.name}: {name}",
            tuple(self.classes[k] for k in classes),
            self._split(classes, ~self.held_out),
            self._split(classes, self.held_out),
        )

    def _split(self, classes: Sequence[int], part: np.ndarray) -> Split:
        chosen = np.flatnonzero(part & np.isin(self.labels, classes))
        place = {k: index for index, k in enumerate(classes)}
        return Split(self.images[chosen], np.array([place[k] for k in self.labels[chosen]], dtype=np.int64))


@dataclass(frozen=True)
class Setting:
    """One experiment's tasks. pretrain: the task its backbone is made by."""

    name: str
    pretrain: Task
    bank: tuple[Task, ...]
    targets: tuple[Task, ...]
    flip: bool  # whether a mirrored image is of the same class
    development: bool = False  # its targets are to try recipes on

    @cached_property
    def bank_name(self) -> str:
        return "random" if self.name in ("transfer", "foreign") else self.name

    @property
    def backbone_name(self) -> str:
        return "omniglot" if self.name == "alphabets" else "cifar"


def setting(name: str, folder: Path, development: bool = False) -> Setting:
    """The setting of that name, from the data sets in ``folder``; ``development``: with targets to try recipes on."""
    if name == "alphabets":
        return _alphabets(omniglot(folder), development)
    data = cifar(folder)
    if name in ("foreign", "mixed"):
        photos, letters = setting("random", folder, development), _alphabets(omniglot(folder), development)
        if name == "foreign":
            return replace(photos, name=name, targets=letters.targets, flip=False)
        halves = (
            (*one[: len(one) // 2], *other[: len(other) // 2])
            for one, other in ((photos.bank, letters.bank), (photos.targets, letters.targets))
        )
        return Setting(name, photos.pretrain, *halves, flip=False, development=development)
    bank_side, other = np.flatnonzero(data.background), np.flatnonzero(~data.background)
    pretrain = data.task("the bank's side", bank_side.tolist())
    later = DEVELOPMENT if development else 0  # added to the seed
    if name == "disjoint":
        bank, targets = _drawn(data, bank_side, BANK, 1), _drawn(data, other, TARGETS, 2 + later)
    else:
        every = np.arange(len(data.classes))
        bank = _drawn(data, every, BANK, 3)
        if name == "random":
            targets = _drawn(data, every, TARGETS, 4 + later)
        else:
            objects = caltech(folder)
            targets = _drawn(objects, np.arange(len(objects.classes)), TARGETS, 5 + later)
    return Setting(name, pretrain, bank, targets, flip=True, development=development)


ASKED = ("random", "disjoint", "alphabets", "transfer")  # of which the default has to win three
SETTINGS = (*ASKED, "foreign", "mixed")


def _drawn(data: Data, classes: np.ndarray, number: int, seed: int) -> tuple[Task, ...]:
    rng = np.random.default_rng(seed)
    drawn = [sorted(rng.choice(classes, CLASSES, replace=False).tolist()) for _ in range(number)]
    return tuple(data.task(f"{seed}.{index}", chosen) for index, chosen in enumerate(drawn))


def _alphabets(data: Data, development: bool) -> Setting:
    def tasks(side: np.ndarray, first: int, number: int) -> tuple[Task, ...]:
        families = np.unique(data.families[side])[first : first + number]
        return tuple(data.task(f"alphabet {f}", np.flatnonzero(data.families == f).tolist()) for f in families)

    pretrain = data.task("the bank's side", np.flatnonzero(data.background).tolist())
    bank = tasks(data.background, 0, BANK)
    spare = tasks(data.background, BANK, TARGETS)  # background alphabets that are in no bank
    targets = spare if development else tasks(~data.background, 0, TARGETS)
    return Setting("alphabets", pretrain, bank, targets, flip=False, development=development)


@cache
def cifar(folder: Path) -> Data:
    file = np.load(folder / "cifar100_200x50.npz")
    images, labels, held_out = _joined(file)
    families = file["coarse_of_class"]
    rng = np.random.default_rng(0)
    background = np.zeros(len(families), bool)
    for family in np.unique(families):  # three classes of five are the bank's
        background[rng.permutation(np.flatnonzero(families == family))[:3]] = True
    return Data("cifar100", images, labels, held_out, tuple(file["classes"].tolist()), families, background)


@cache
def caltech(folder: Path) -> Data:
    file = np.load(folder / "caltech101_64.npz")
    images, labels, held_out = _joined(file)
    halves = images.reshape(len(images), SIZE, 2, SIZE, 2, 3).mean((2, 4)).round().astype(np.uint8)
    names = file["classes"].tolist()
    chosen = [k for k, name in enumerate(names) if name != "Faces_easy"]  # the same photos as Faces
    keep = np.isin(labels, chosen)
    places = np.full(len(names), -1)
    places[chosen] = np.arange(len(chosen))
    one = np.zeros(len(chosen), np.int64)
    return Data(
        "caltech101",
        halves[keep],
        places[labels[keep]],
        held_out[keep],
        tuple(names[k] for k in chosen),
        one,
        one.astype(bool),
    )


@cache
def omniglot(folder: Path) -> Data:
    file = np.load(folder / "omniglot28.npz")
    ink = np.pad(file["images"], ((0, 0), (2, 2), (2, 2)))  # 28 to 32 pixels
    return Data(
        "omniglot",
        np.repeat(ink[..., None], 3, axis=3),
        file["label"].astype(np.int64),
        file["drawer"] >= 20 - TEST_DRAWERS,
        tuple(str(name) for name in file["classes"]),
        file["alphabet_of_class"],
        file["class_is_background"].astype(bool),
    )


def _joined(file: np.lib.npyio.NpzFile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images = np.concatenate([file["x_train"], file["x_test"]])
    labels = np.concatenate([file["y_train"], file["y_test"]]).astype(np.int64)
    return images, labels, np.arange(len(labels)) >= len(file["y_train"])
