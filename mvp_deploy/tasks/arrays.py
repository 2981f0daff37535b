"""Tasks from arrays: .npz files and the embedded handwritten digits."""

from __future__ import annotations

import unicodedata
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvp_deploy.base.errors import InputError
from mvp_deploy.exporters.arrays import read_npy
from mvp_deploy.tasks.picture import Unreadable, check_size
from mvp_deploy.tasks.task import Split, Task, choose, drawn, held_out

PARTS = ("x_train", "y_train", "x_test", "y_test")
MAX_BYTES = 8 << 30  # of a file's arrays, unpacked
MAX_LABEL = 2**31 - 1
Arrays = Mapping[str, npt.NDArray[Any]]


def read_digits(spec: str, wanted: tuple[str, ...] | None, seed: int | None) -> Task:
    """The 1797 handwritten digits that scikit-learn ships: 8x8 pixels of 0 to 16, ink bright, by digit.

    They are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
    Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0.
    """
    with resources.files("mvp_deploy.tasks").joinpath("digits.npz").open("rb") as file:
        data = np.load(file, allow_pickle=False)
        images = np.round(data["images"] * (255 / 16)).astype(np.uint8)
        return _task(spec, "digits", {"images": images, "labels": data["labels"]}, wanted, seed or 0)


def read_npz(spec: str, path: Path, wanted: tuple[str, ...] | None, seed: int | None) -> Task:
    """A task from an .npz: uint8 images [n, height, width] or [n, height, width, 1 or 3], integer labels [n].

    Labels index ``classes`` where the file has that key; else each label is a class named by its number. ``seed``: as
    `mvp_deploy.tasks.load.load_task` has it.
    """
    state = path.stat()
    changed = (state.st_ino, state.st_ctime_ns, state.st_mtime_ns, state.st_size)  # ctime: nobody can set it back
    return _task(spec, str(path), _arrays(path, changed), wanted, seed)


@lru_cache(maxsize=1)  # many tasks of one file follow each other, and unpacking it takes seconds
def _arrays(path: Path, changed: tuple[int, ...]) -> Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [f"{key}.npy" for key in (*PARTS, "images", "labels", "label", "classes")]
            members = [member for member in archive.infolist() if member.filename in wanted]
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise ValueError(f"its arrays take more than {MAX_BYTES >> 30} GiB; make a folder of images of it")
            arrays = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    arrays[name] = read_npy(file, member.file_size, name)
            return arrays
    except Exception as error:  # zip, its decompressors and numpy's parser each have errors of their own
        raise InputError(
            f"{path} cannot be read as an .npz of plain arrays ({error}): write it again with numpy.savez"
        ) from error


def _task(spec: str, source: str, data: Arrays, wanted: tuple[str, ...] | None, seed: int | None) -> Task:
    labels = data.get("labels", data.get("label"))
    parts: dict[str, Split]
    if all(key in data for key in PARTS):
        parts = {
            "training": _checked(f"the training part of {source}", data["x_train"], data["y_train"]),
            "test": _checked(f"the test part of {source}", data["x_test"], data["y_test"]),
        }
    elif "images" in data and labels is not None:
        parts = {"": _checked(source, data["images"], labels)}
    else:
        raise InputError(f"{source} lacks the keys of a task: {', '.join(PARTS)}, or images, labels")
    names = _names(source, data.get("classes"), np.unique(np.concatenate([part.labels for part in parts.values()])))
    classes = choose(source, list(names), wanted)
    numbers = [names[name] for name in classes]
    for part, split in parts.items():
        for name, number in zip(classes, numbers, strict=True):
            if number not in split.labels:
                raise InputError(f"class {name!r} of {source} has no {part} images: name others after a #")
    whole, *test = (_select(split, numbers) for split in parts.values())
    if test:
        return Task(spec, classes, whole, test[0])
    if seed is None:
        mask = held_out(whole, classes, source)
    else:
        mask = drawn(whole, [str(number) for number in numbers], source, seed)
    return Task(spec, classes, whole.part(~mask), whole.part(mask))


def _names(source: str, classes: npt.NDArray[Any] | None, labels: npt.NDArray[np.int64]) -> dict[str, int]:
    """Which label each class name stands for."""
    if classes is None:
        return {str(label): int(label) for label in labels}
    names = [unicodedata.normalize("NFC", _text(name)) for name in classes.ravel().tolist()]
    if len(set(names)) < len(names):
        raise InputError(f"{source} has a class name twice in 'classes': name each class once")
    if labels.max() >= len(names):
        raise InputError(
            f"{source} has labels from {labels.min()} to {labels.max()}, but {len(names)} names in "
            f"'classes': labels must be 0 to {len(names) - 1}"
        )
    return {name: number for number, name in enumerate(names)}


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _checked(where: str, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Split:
    if images.dtype != np.uint8:
        raise InputError(f"{where} has images of {images.dtype}: store them as uint8, 0 to 255")
    shape = list(images.shape)
    if images.ndim == 3:
        images = images[..., None]  # grey
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"{where} has images of shape {shape}: it must be [n, height, width] or [n, height, width, 3]")
    try:
        check_size(images.shape[2], images.shape[1])
    except Unreadable as error:
        raise InputError(f"{where} cannot be used: {error}") from error
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{where} has labels of type {labels.dtype} and shape {list(labels.shape)}: there must be one "
            f"integer for each of the {len(images)} images"
        )
    if labels.min() < 0 or labels.max() > MAX_LABEL:
        raise InputError(f"{where} has labels from {labels.min()} to {labels.max()}: count the classes from 0 up")
    rgb = np.broadcast_to(images, (*images.shape[:3], 3))  # grey shown as RGB, without three copies
    return Split(rgb, labels.astype(np.int64))


def _select(split: Split, numbers: list[int]) -> Split:
    """The images with these labels, relabelled 0, 1, … in the order of the numbers."""
    chosen = split.part(np.isin(split.labels, numbers))
    new = {number: k for k, number in enumerate(numbers)}
    return Split(chosen.images, np.array([new[label] for label in chosen.labels.tolist()], np.int64))
