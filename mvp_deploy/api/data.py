"""Data in whatever form a person has them, as the images that pruning and export read."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from mvp_deploy.base.errors import InputError
from mvp_deploy.tasks.load import load_task
from mvp_deploy.tasks.preprocessing import Preprocessing
from mvp_deploy.tasks.task import Split, Task

if TYPE_CHECKING:
    import torch

    from mvp_deploy.tasks import Images

SET_ASIDE = 0.2  # the share of a loader's images that judges the exported files


def as_task(data: Any) -> Task | None:
    """The task that ``data`` is (a `Task`) or names (a folder, an .npz, ``SOURCE#class,class``); else None."""
    if isinstance(data, (str, PathLike)):
        return load_task(fspath(data))
    return data if isinstance(data, Task) else None


def training_images(data: Any, preprocessing: Preprocessing | None, device: Any, *, limit: int | None = None) -> Images:
    """The training images of ``data``.

    A task's images are prepared for the model; a user's loader gives them as they are (`mvp_deploy.tasks.own.collect`).
    """
    from mvp_deploy.tasks import Images, prepare
    from mvp_deploy.tasks.own import collect

    task = as_task(data)
    if task is None:
        return data if isinstance(data, Images) else collect(data, device, limit=limit)
    return prepare(task.train, required(preprocessing), device)


def held_out_images(data: Any, validation: Any, preprocessing: Preprocessing | None, device: Any) -> Images | None:
    """The images that judge: ``validation`` where it was given, else the held-out part of a task; else None."""
    from mvp_deploy.tasks import prepare

    given, task = as_task(data), as_task(data if validation is None else validation)
    if task is not None:
        if given is not None:
            require_classes(task, given.classes)
        return prepare(task.test, required(preprocessing), device)
    return None if validation is None else training_images(validation, preprocessing, device)


def held_out_files(data: Any, validation: Any) -> Split | None:
    """What the images that judge were prepared from, to name them; None of a loader's."""
    task = as_task(data if validation is None else validation)
    return task.test if task else None


def set_aside(images: Images, seed: int) -> tuple[Images, Images]:
    """Two parts of the images, drawn by the seed: the rest, and a fifth that judges."""
    import torch

    if len(images) < 2:
        raise InputError("One image cannot be split: give more, or pass validation= as well.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    judging = max(1, round(SET_ASIDE * len(images)))
    return images.subset(order[judging:].sort().values), images.subset(order[:judging].sort().values)


def require_classes(task: Task, classes: Sequence[str]) -> None:
    """Refuse a task whose labels do not count these classes in this order."""
    if task.classes != tuple(classes):
        raise InputError(
            f"{task.name} has the classes {', '.join(task.classes)}, and the model is for {', '.join(classes)}: name "
            "the same ones in that order, SOURCE#class,class."
        )


def input_of(images: Images) -> torch.Tensor:
    """The first two images, float32 [2, channels, height, width]."""
    return next(iter(images.batches(2)))[0]


def required(preprocessing: Preprocessing | None) -> Preprocessing:
    """The preprocessing; an InputError where the model has none."""
    if preprocessing is None:
        raise InputError(
            "A folder or task needs the model's preprocessing, and this module is not a timm model: pass a DataLoader "
            "or Dataset whose transforms make its input."
        )
    return preprocessing
