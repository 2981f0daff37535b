"""How well a model of a bundle classifies labelled images, on the machine where this runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvp_deploy.base.errors import InputError
from mvp_deploy.benchmark.statistics import Interval, share_interval
from mvp_deploy.inference.model import BATCH, Model, write_rows
from mvp_deploy.tasks.task import Split, Task


@dataclass(frozen=True, eq=False)
class Evaluation:
    """confusion: int64 [classes, classes], how many images of each true class (row) were given each class (column)."""

    classes: tuple[str, ...]
    confusion: np.ndarray
    images: tuple[str, ...]  # names, in the order of ``truth`` and ``found``
    truth: np.ndarray  # int64 [n]
    found: np.ndarray  # int64 [n]

    def __repr__(self) -> str:
        return f"Evaluation(accuracy {self.accuracy.shares} on {len(self.truth)} images)"

    @property
    def accuracy(self) -> Interval:
        """The share of images classified rightly, 0..1."""
        return share_interval(int(np.trace(self.confusion)), int(self.confusion.sum()))

    def per_class(self) -> list[tuple[str, int, float, float]]:
        """Name, number of images, recall and precision (0..1; NaN if there is nothing to divide) of each class."""
        right = np.diag(self.confusion)
        with np.errstate(invalid="ignore"):
            recall, precision = right / self.confusion.sum(1), right / self.confusion.sum(0)
        counts = self.confusion.sum(1)
        return [(name, int(counts[k]), float(recall[k]), float(precision[k])) for k, name in enumerate(self.classes)]

    def confused(self) -> list[str]:
        """A sentence for each of the five most frequent mistakes."""
        wrong = self.confusion * (1 - np.eye(len(self.classes), dtype=np.int64))
        order = np.argsort(-wrong, axis=None, kind="stable")[:5]
        pairs = [(divmod(int(place), len(self.classes)), int(wrong.flat[place])) for place in order]
        return [f"{n} of {self.classes[i]} taken for {self.classes[j]}" for (i, j), n in pairs if n]

    def to_json(self) -> dict[str, Any]:
        accuracy = self.accuracy
        return {
            "images": len(self.truth),
            "accuracy": {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high},
            "classes": list(self.classes),
            "per_class": [
                {"class": name, "images": count, "recall": _number(recall), "precision": _number(precision)}
                for name, count, recall, precision in self.per_class()
            ],
            "confusion": self.confusion.tolist(),
        }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def evaluate(model: Model, task: Task, part: Split, step: Any = lambda done, total: None) -> Evaluation:
    """Classify ``part`` of the task; classes are matched by name.

    Raises:
        MvpError: the data have a class that the model does not know, or an image cannot be read.
    """
    require_known(model.classes, task)
    images: Sequence[Path | np.ndarray] = part.images  # type: ignore[assignment]
    found: list[int] = []
    for start in range(0, len(images), BATCH):
        found += model.logits(list(images[start : start + BATCH])).argmax(1).tolist()
        step(len(found), len(images))
    return judged(model.classes, task, part, np.array(found))


def require_known(classes: tuple[str, ...], task: Task) -> None:
    """Raise MvpError where the data have a class that a model of these ``classes`` does not know."""
    unknown = [name for name in task.classes if name not in classes]
    if unknown:
        known = ", ".join(classes[:8]) + (" …" if len(classes) > 8 else "")
        raise InputError(
            f"The data have the class {unknown[0]!r}, which the model does not know: it tells apart {known}. "
            "Choose classes with SOURCE#class,class, or rename them with a class map (`--class-map`)."
        )


def judged(classes: tuple[str, ...], task: Task, part: Split, given: np.ndarray) -> Evaluation:
    """What a model of these classes got right. given: the class it gave each image of ``part``, int64 [n]."""
    place = np.array([classes.index(name) for name in task.classes])
    truth = place[part.labels]
    names = tuple(str(x) if isinstance(x, Path) else str(number) for number, x in enumerate(part.images))
    return _counted(classes, names, truth, given)


def evaluate_prepared(model: Model, batches: Iterable[Any]) -> Evaluation:
    """Classify images that are the model's input already.

    Args:
        batches: pairs of float images [b, channels, H, W] and labels [b] in the order of the model's classes: tensors
            or arrays.

    Raises:
        MvpError: nothing is in it, or labels are of no class.
    """
    pairs = [batches] if isinstance(batches, tuple) else batches
    if not hasattr(pairs, "__iter__") and not hasattr(pairs, "__getitem__"):
        raise InputError(f"{type(pairs).__name__} gives no images: pass a folder, a task, or batches (images, labels).")
    truth: list[int] = []
    found: list[int] = []
    for x, y in pairs:
        images, labels = _array(x), _array(y).reshape(-1)
        if labels.size and not (labels.min() >= 0 and labels.max() < len(model.classes)):
            raise InputError(f"Labels count the model's {len(model.classes)} classes from 0: some of these do not.")
        found += model.logits(list(images if images.ndim == 4 else images[None])).argmax(1).tolist()
        truth += labels.astype(np.int64).tolist()
    if not truth or len(truth) != len(found):
        raise InputError(f"The data give {len(found)} images and {len(truth)} labels: one label an image.")
    return _counted(model.classes, tuple(map(str, range(len(truth)))), np.array(truth), np.array(found))


def _array(x: Any) -> np.ndarray:
    """As numpy, from whatever device a tensor lies on."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def _counted(classes: tuple[str, ...], names: tuple[str, ...], truth: np.ndarray, given: np.ndarray) -> Evaluation:
    confusion = np.zeros((len(classes),) * 2, np.int64)
    np.add.at(confusion, (truth, given), 1)
    return Evaluation(classes, confusion, names, truth, given)


def part_of(task: Task, part: str) -> tuple[Task, Split]:
    """The images to judge by, and the task they are of, whose `notes` then speak of them.

    Args:
        part: ``held-out``, ``test`` (the third part, of train/, val/ and test/), ``train`` or ``all``.

    Raises:
        InputError: the task has no such part.
    """
    if part == "test":
        if task.final is None:
            raise InputError(f"{task.name} has no third part: with train/ and test/ alone, test/ is the held-out part.")
        task = task.final()
    parts = {
        "held-out": lambda: task.test,
        "test": lambda: task.test,
        "train": lambda: task.train,
        "all": lambda: whole(task),
    }
    if part not in parts:
        raise InputError(f"There is no part {part!r} of a task: write {', '.join(parts)}.")
    return task, parts[part]()


def whole(task: Task) -> Split:
    """Both parts of a task as one."""
    parts = task.train, task.test
    labels = np.concatenate([part.labels for part in parts])
    if isinstance(task.train.images, np.ndarray):
        return Split(np.concatenate([np.asarray(part.images) for part in parts]), labels)
    return Split(tuple(image for part in parts for image in part.images), labels)


def write_csv(path: Path, found: Evaluation) -> None:
    """One line an image: its name, its class, and the class it was given."""
    names, answers = found.classes, zip(found.images, found.truth, found.found, strict=True)
    rows = ((image, names[true], names[given]) for image, true, given in answers)
    write_rows(path, ("image", "class", "predicted"), rows)
