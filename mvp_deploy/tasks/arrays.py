"""Tasks from arrays: .npz files and the embedded handwritten digits."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvp_deploy.errors import DeployError
from mvp_deploy.tasks.task import Split, Task, choose, held_out

KEYS = "x_train, y_train, x_test, y_test (and classes, the names, if you like), or images, labels"


def read_digits(spec: str, wanted: tuple[str, ...] | None, seed: int) -> Task:
    """The 1797 handwritten digits that scikit-learn ships: 8x8 pixels of 0..16, ink bright, classes '0' to '9'.

    They are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0.
    """
    with resources.files("mvp_deploy.tasks").joinpath("digits.npz").open("rb") as file:
        data = np.load(file, allow_pickle=False)
        images = np.round(data["images"] * (255 / 16)).astype(np.uint8)
        return _task(spec, "digits", {"images": images, "labels": data["labels"]}, wanted, seed)


def read_npz(spec: str, path: Path, wanted: tuple[str, ...] | None, seed: int) -> Task:
    """A task from an .npz file: uint8 images [n, height, width] or [n, height, width, 1 or 3], integer labels [n].

    Labels index ``classes`` where the file has that key; else every distinct label is a class named by its number.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = {"x_train", "y_train", "x_test", "y_test", "images", "labels", "label", "classes"}
            data = {key: file[key] for key in file.files if key in keys}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DeployError(
            f"{path} cannot be read as an .npz of plain arrays ({error}): write it anew with numpy.savez"
        ) from error
    data.setdefault("labels", data.pop("label", None))
    return _task(spec, str(path), data, wanted, seed)


def _task(spec: str, source: str, data: Mapping[str, Any], wanted: tuple[str, ...] | None, seed: int) -> Task:
    if {"x_train", "y_train", "x_test", "y_test"} <= data.keys():
        train = _checked(source, "train", data["x_train"], data["y_train"])
        test = _checked(source, "test", data["x_test"], data["y_test"])
    elif data.get("images") is not None and data.get("labels") is not None:
        whole = _checked(source, "", data["images"], data["labels"])
        test_mask = held_out(map(str, whole.labels), source, seed)
        train, test = _part(whole, ~test_mask), _part(whole, test_mask)
    else:
        raise DeployError(f"{source} lacks the keys of a task: it needs {KEYS}")
    numbers = np.union1d(train.labels, test.labels)
    names = _names(source, data.get("classes"), numbers)
    classes = choose(source, list(names), wanted)
    wanted_numbers = [names[name] for name in classes]
    for part, split in (("train", train), ("test", test)):
        for name, number in zip(classes, wanted_numbers, strict=True):
            if not (split.labels == number).any():
                raise DeployError(
                    f"class {name!r} of {source} has no {part} images: leave it out with {source}#class,class"
                )
    return Task(spec, classes, _select(train, wanted_numbers), _select(test, wanted_numbers))


def _names(source: str, classes: Any, numbers: npt.NDArray[np.int64]) -> dict[str, int]:
    """Which label each class name stands for."""
    if classes is None:
        return {str(number): int(number) for number in numbers}
    names = [str(name) for name in np.asarray(classes).ravel()]
    if len(set(names)) < len(names):
        raise DeployError(f"{source} has a class name twice in 'classes': name each class once")
    if numbers.min() < 0 or numbers.max() >= len(names):
        raise DeployError(
            f"{source} has labels from {numbers.min()} to {numbers.max()} but {len(names)} names in 'classes': labels "
            f"must be 0 to {len(names) - 1}"
        )
    return {name: number for number, name in enumerate(names)}


def _checked(source: str, part: str, images: Any, labels: Any) -> Split:
    where = f"the {part} images of {source}" if part else f"the images of {source}"
    if images.dtype != np.uint8:
        raise DeployError(f"{where} are {images.dtype}: store them as uint8, 0 to 255")
    if images.ndim == 3:
        images = images[..., None]  # grey
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise DeployError(
            f"{where} have the shape {list(images.shape)}: it must be [n, height, width] or [n, height, width, 3]"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DeployError(
            f"the labels for {where} are {labels.dtype} of shape {list(labels.shape)}: there must be one integer for "
            f"each of the {len(images)} images"
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
