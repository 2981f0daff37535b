"""A RUN folder as a bundle: the pruned model beside the unpruned one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from mvp_deploy import runs
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.bundle import Bundle
from mvp_deploy.export.pack import Order, calibration_images, held_out, pack, reference
from mvp_deploy.export.subjects import Interface, Subject
from mvp_deploy.pruning.pruned import PrunedModel
from mvp_deploy.tasks import Images, Task, load_again, prepare
from mvp_deploy.tasks.task import Split


def export_run(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    order: Order,
    *,
    data: str | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    reporter: Reporter,
) -> Bundle:
    """Export a finished run's pruned and unpruned model, check them, and write the bundle ``out``.

    Args:
        folder: the RUN.
        out: the bundle's folder.
        order: what to make of each model.
        data: where the task's images are now, as SOURCE[#class,class,…]; by default where they were.
        device: where PyTorch computes the reference logits of the held-out part.
        seed: chooses the sample images that go into the bundle.
        reporter: receives messages and progress.

    Files that do not pass their checks are left out; `mvp_deploy.export.pack.failure` says which.

    Raises:
        InputError: there is no finished run, or its data are gone or changed.
        ParityError: no file of the pruned model passed; no bundle is written.
        AccuracyError: likewise.
    """
    if (extra := order.extra) is not None and not extra.is_dir():
        raise InputError(f"{extra} is not a folder: --extra takes the folder whose files go into the bundle's extra/.")
    run = runs.load(folder)
    task = task_of(run, data)
    unpruned, pruned = run.unpruned(), run.pruned()
    how = pruned.backbone.preprocessing
    test = prepare(task.test, how, device)
    images = calibration_images(prepare(task.train, how), seed, reporter) if order.calibrates else None
    subjects = [_subject(name, model, run, test) for name, model in (("unpruned", unpruned), ("pruned", pruned))]
    judged = held_out(test, task.test, seed)
    return pack(out, subjects, judged, images, describe(run, task), pruned.plan, order, reporter)


def task_of(run: runs.Run, data: str | None = None) -> Task:
    """The run's task, loaded again from ``data``, or from where it was.

    Raises:
        MvpError: (INPUT) its images are not found, or are not those of the run.
    """
    name, source = data or run.info["task"], None if data else run.info["source"]
    try:
        task = load_again(name, run.info["data"], run.info["seed"], source=source, beside=run.folder)
    except MvpError as error:
        raise InputError(f"{error}. Where are they now? Tell with --data.") from error
    if task is None:
        raise InputError(
            f"the images of {source or name} have changed since {run.folder} was made: run `mvp-deploy prune` again."
        )
    return task


def describe(run: runs.Run, task: Task) -> dict[str, Any]:
    """What bundle.json says of where the models come from."""
    backbone = run.info["backbone"]
    return {
        "task": {
            "name": run.info["task"],
            "data": task.fingerprint,
            "held_out": fingerprint(task.test),
            "images": run.info["images"],
        },
        "backbone": backbone,
        "licence": {"backbone weights": backbone["license"] or "not stated", "source": backbone["weights"]},
        "metrics": run.info["metrics"],
        "votes": run.info["votes"],
        "recipe": run.info["recipe"],
        "seed": run.info["seed"],
    }


def fingerprint(test: Split) -> str:
    """SHA-256 over the held-out images and labels: runs that agree in it are judged by the same images."""
    digest = hashlib.sha256(test.labels.astype("<i8").tobytes())
    for image in test.images:
        content = image.read_bytes() if isinstance(image, Path) else image.tobytes()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _subject(name: str, loaded: PrunedModel, run: runs.Run, test: Images) -> Subject:
    how, metrics = loaded.backbone.preprocessing, run.info["metrics"][name]
    interface = Interface(loaded.classes, how.input_size, how)
    return Subject(name, loaded.model, interface, metrics["params"], metrics["macs"], reference(loaded.model, test))
