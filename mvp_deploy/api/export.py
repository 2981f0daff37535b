"""`mvp.export`: a model, whoever made and trained it, as a checked bundle for a device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mvp_deploy import runs
from mvp_deploy.api.arguments import check
from mvp_deploy.api.bundle import Bundle
from mvp_deploy.api.data import (
    as_task,
    held_out_files,
    held_out_images,
    input_of,
    require_classes,
    set_aside,
    training_images,
)
from mvp_deploy.api.progress import reporter as told
from mvp_deploy.api.result import Result
from mvp_deploy.backbones.backbone import preprocessing_of
from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.export.config import Exports
from mvp_deploy.export.deploy import export_run, task_of
from mvp_deploy.export.module import export_modules
from mvp_deploy.export.pack import Order, failure
from mvp_deploy.export.subjects import Interface
from mvp_deploy.tasks.preprocessing import Preprocessing
from mvp_deploy.tasks.task import Task


def export(
    model: Result | nn.Module | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data: Any = None,
    targets: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    validation: Any = None,
    unpruned: nn.Module | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    method: str = Exports.int8_method,
    max_drop: float = 100 * Exports.max_drop,
    measure: Sequence[int] = (),
    images: int = 1024,
    device: torch.device | str = "auto",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Bundle:
    """Export a model, check every file in its own runtime against PyTorch, and write a bundle.

    Each file is run on the held-out images, in batches and one by one, and its logits are compared with the model's
    (1e-4 in fp32, 2e-2 in fp16, 0.3 in int8, relative to the largest). What fails is left out of the bundle.

    Args:
        model: what `prune` gave, with its model as it is now, trained further or not; a module, pruned or not; or a
            RUN folder. Modules take float32 [batch, channels, height, width] to logits [batch, classes]; they stay as
            they are.
        out: the bundle's folder. An older bundle there is replaced, once the new one is whole.
        data: a folder, a task's name or a task: its training images calibrate, its held-out images judge. Or a
            DataLoader, a Dataset or tensors ``(x, y)``: a fifth is set aside to judge. For a RUN: where its task's
            images are now; by default where they were.
        targets: ``onnx``, ``openvino``, ``coreml``, ``executorch``, ``litert``, ``mnn``, ``ncnn``, ``tensorrt``, or
            another package's.
        precisions: ``fp32``, ``fp16``, ``int8``. A target leaves out those it does not deliver, with a warning.
        validation: images that judge, in any of the forms of ``data``, all of which then calibrates. Without labels the
            model's own answers are the labels, and accuracy is agreement with PyTorch.
        unpruned: the full-size module to export beside a module, to compare with; a `Result` has it.
        classes: the outputs' names, in order; by default the task's, else numbers.
        preprocessing: how an image file becomes the model's input; by default as a timm model's ``default_cfg`` says.
            Without either, the bundle takes arrays of floats alone.
        method: how int8's ranges are chosen: 'entropy', 'minmax', 'percentile' or 'mse'.
        max_drop: points of accuracy (of 100) that fp16 and int8 may lose.
        measure: batch sizes to time the models at; the times become part of the bundle.
        images: how many images of a loader to read.
        device: where PyTorch computes what the files are compared with: 'auto', 'cpu', 'cuda', 'cuda:N' or a
            torch.device.
        seed: which images calibrate, judge and are packed as samples.
        reporter: receives messages and progress; by default the one that `mvp_deploy.progress` set.

    Raises:
        InputError: the model cannot be exported, or data and model do not fit each other.
        EnvironmentMissing: a target's packages are missing; the sentence has the install line.
        ParityError: a file disagrees with the model. The others are packed: `Bundle` opens them.
        AccuracyError: a file loses more than ``max_drop``. The others are packed.

    Examples:
        >>> import mvp_deploy as mvp, torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> x, y = torch.randn(40, 3, 16, 16), torch.arange(40) % 2
        >>> bundle = mvp.export(net, "exported", data=(x, y), classes=["cat", "dog"])
        >>> [file.file for file in bundle.models], bundle.predict(x[0].numpy()).label in ("cat", "dog")
        (['models/model.fp32.onnx'], True)
    """
    check(method=method, max_drop=max_drop, measure=measure, images=images, seed=seed)
    to, where = reporter or told(), resolve(str(device))
    asked: Any = {"targets": targets, "precisions": precisions, "int8_method": method, "max_drop": max_drop / 100}
    order = Order.of(Exports(**asked), to, measure=measure)
    if isinstance(model, (str, os.PathLike)):
        _refuse_beside_a_run(validation, unpruned, classes, preprocessing)
        bundle = export_run(model, out, order, data=_source(data), device=where, seed=seed, reporter=to)
    else:
        models = _models(model, unpruned)
        task = _task(model) if data is None else as_task(data)
        validation = as_task(validation) or validation
        if isinstance(model, Result) and model.classes:
            for each in filter(None, (task, as_task(validation))):
                require_classes(each, model.classes)
        how = preprocessing or _preprocessing(model)
        train = training_images(task or data, how, where, limit=images)
        test = held_out_images(task or data, validation, how, where)
        if test is None:
            train, test = set_aside(train, seed)
        names = tuple(classes or (model.classes if isinstance(model, Result) else ()) or (task.classes if task else ()))
        channels, height, width = input_of(test).shape[1:]
        if how is not None:
            how = replace(how, input_size=(channels, height, width))
        interface = Interface(names, (channels, height, width), how)
        bundle = export_modules(
            models,
            out,
            interface,
            train,
            test,
            order,
            split=held_out_files(task or data, validation),
            keep=model.plan if isinstance(model, Result) else None,
            seed=seed,
            reporter=to,
        )
    if error := failure(bundle):
        raise error
    return Bundle(out)


def _models(model: Result | nn.Module, unpruned: nn.Module | None) -> dict[str, nn.Module]:
    """What the bundle holds, by name; the model that it is for comes last."""
    if isinstance(model, Result):
        return {"unpruned": unpruned or model.unpruned, "pruned": model.model}
    if not isinstance(model, nn.Module):
        raise InputError(f"A {type(model).__name__} cannot be exported: pass a Result, a module or a RUN folder.")
    return {"model": model} if unpruned is None else {"unpruned": unpruned, "pruned": model}


def _task(model: Result | nn.Module) -> Task:
    """The task that a RUN was made for."""
    if isinstance(model, Result) and model.folder is not None:
        return task_of(runs.load(model.folder))
    raise InputError("Pass data=, the images that the exported files are checked on and int8 is measured on.")


def _preprocessing(model: Result | nn.Module) -> Preprocessing | None:
    """From an image file to the input, as a timm model says; None for any other module."""
    if not isinstance(model, Result):
        return preprocessing_of(model)
    how = preprocessing_of(model.unpruned)
    return None if how is None else replace(how, input_size=model.input_size)


def _source(data: Any) -> str | None:
    if data is not None and not isinstance(data, (str, os.PathLike)):
        raise InputError("For a RUN, data= says where its task's images are now: a folder, an .npz or a name.")
    return None if data is None else os.fspath(data)


def _refuse_beside_a_run(*arguments: Any) -> None:
    if any(argument is not None for argument in arguments):
        raise InputError(
            "A RUN has its held-out images, its unpruned model, its classes and its preprocessing: leave out "
            "validation=, unpruned=, classes= and preprocessing=."
        )
