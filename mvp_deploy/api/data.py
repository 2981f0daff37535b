"""Data in whatever form a person has them, as the images that pruning and export read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import InputError
from mvp_deploy.tasks import Images, Task, load_task, prepare
from mvp_deploy.tasks.own import collect
from mvp_deploy.tasks.preprocessing import Preprocessing


def as_task(data: Any) -> Task | None:
    """The task that ``data`` is (a `Task`) or names (a folder, an .npz, ``SOURCE#class,class``); else None."""
    if isinstance(data, (str, Path)):
        return load_task(str(data))
    return data if isinstance(data, Task) else None


def training_images(data: Any, preprocessing: Preprocessing | None, device: Any, *, limit: int | None = None) -> Images:
    """The training images of ``data``: of a task, prepared as the model wants them; or of one's own loader, as it
    gives them (`mvp_deploy.tasks.own.collect`)."""
    task = as_task(data)
    if task is None:
        return data if isinstance(data, Images) else collect(data, device, limit=limit)
    return prepare(task.train, required(preprocessing), device)


def held_out_images(data: Any, validation: Any, preprocessing: Preprocessing | None, device: Any) -> Images | None:
    """The images that judge: ``validation`` where it was given, else the held-out part of a task; else None."""
    task = as_task(data if validation is None else validation)
    if task is not None:
        return prepare(task.test, required(preprocessing), device)
    return None if validation is None else training_images(validation, preprocessing, device)


def required(preprocessing: Preprocessing | None) -> Preprocessing:
    if preprocessing is None:
        raise InputError(
            "A folder or task needs the model's preprocessing, and this module is no timm model: pass a DataLoader or "
            "Dataset whose transforms make its input."
        )
    return preprocessing
