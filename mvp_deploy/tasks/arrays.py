"""Tasks from arrays: .npz files and the embedded handwritten digits."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvp_deploy.base.errors import DeployError
from mvp_deploy.tasks.task import Split, Task, choose, held_out

PARTS = ("x_train", "y_train", "x_test", "y_test")
Arrays = Mapping[str, npt.NDArray[Any]]


def read_digits(spec: str, wanted: tuple[str, ...] | None, seed: int) -> Task:
    """The 1797 handwritten digits that scikit-learn ships: 8x8 pixels of 0 to 16, ink bright, by digit.

    They are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
    Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0.
    """
    with resources.files("mvp_deploy.tasks").joinpath("digits.npz").open("rb") as file:
        data = np.load(file, allow_pickle=False)
        images = np.round(data["images"] * (255 / 16)).astype(np.uint8)
        return _task(spec, "digits", {"images": images, "labels": data["labels"]}, wanted, seed)


def read_npz(spec: str, path: Path, wanted: tuple[str, ...] | None, seed: int) -> Task:
    """A task from an .npz: uint8 images [n, height, width] or [n, height, width, 1 or 3], integer labels [n].

    Labels index ``classes`` where the file has that key; else each label is a class named by its number.
    """
    status = path.stat()
    return _task(spec, str(path), _arrays(path, status.st_mtime_ns, status.st_size), wanted, seed)


@lru_cache(maxsize=1)  # many tasks of one file follow each other, and unpacking it takes seconds
def _arrays(path: Path, mtime_ns: int, size: int) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in (*PARTS, "images", "labels", "label", "classes") if key in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise DeployError(
            f"{path} cannot be read as an .npz of plain arrays ({error}): write it anew with numpy.savez"
        ) from error


def _task(spec: str, source: str, data: Arrays, wanted: tuple[str, ...] | None, seed: int) -> Task:
    labels = data.get("labels", data.get("label"))
    if all(key in data for key in PARTS):
        train = _checked(f"the training part of {source}", data["x_train"], data["y_train"])
        test = _checked(f"the test part of {source}", data["x_test"], data["y_test"])
    elif "images" in data and labels is not None:
        whole = _checked(source, data["images"], labels)
        mask = held_out(map(str, whole.labels), source, seed)
        train, test = _part(whole, ~mask), _part(whole, mask)
    else:
        raise DeployError(f"{source} lacks the keys of a task: {', '.join(PARTS)}, or images, labels")
    names = _names(source, data.get("classes"), np.union1d(train.labels, test.labels))
    classes = choose(source, list(names), wanted)
    numbers = [names[name] for name in classes]
    for part, split in (("training", train), ("test", test)):
        for name, number in zip(classes, numbers, strict=True):
            if number not in split.labels:
                raise DeployError(f"class {name!r} of {source} has no {part} images: name others after a #")
    return Task(spec, classes, _select(train, numbers), _select(test, numbers))


def _names(source: str, classes: npt.NDArray[Any] | None, labels: npt.NDArray[np.int64]) -> dict[str, int]:
    """Which label each class name stands for."""
    if classes is None:
        return {str(label): int(label) for label in labels}
    names = [str(name) for name in classes.ravel()]
    if len(set(names)) < len(names):
        raise DeployError(f"{source} has a class name twice in 'classes': name each class once")
    if labels.min() < 0 or labels.max() >= len(names):
        raise DeployError(
            f"{source} has labels from {labels.min()} to {labels.max()}, but {len(names)} names in "
            f"'classes': labels must be 0 to {len(names) - 1}"
        )
    return {name: number for number, name in enumerate(names)}


def _checked(where: str, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Split:
    if images.dtype != np.uint8:
        raise DeployError(f"{where} has images of {images.dtype}: store them as uint8, 0 to 255")
    shape = list(images.shape)
    if images.ndim == 3:
        images = images[..., None]  # grey
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise DeployError(
            f"{where} has images of shape {shape}: it must be [n, height, width] or [n, height, width, 3]"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DeployError(
            f"{where} has labels of type {labels.dtype} and shape {list(labels.shape)}: there must be one "
            f"integer for each of the {len(images)} images"
        )
    rgb = np.broadcast_to(images, (*images.shape[:3], 3))  # grey shown as RGB, without three copies
    return Split(rgb, labels.astype(np.int64))


def _part(split: Split, mask: npt.NDArray[np.bool_]) -> Split:
    return Split(np.asarray(split.images)[mask], split.labels[mask])


def _select(split: Split, numbers: list[int]) -> Split:
    """The images with these labels, relabelled 0, 1, … in the order of the numbers."""
    chosen = _part(split, np.isin(split.labels, numbers))
    new = {number: k for k, number in enumerate(numbers)}
    return Split(chosen.images, np.array([new[label] for label in chosen.labels.tolist()], np.int64))
