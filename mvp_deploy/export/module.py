"""A PyTorch module as a bundle, whoever made and trained it: checked by the same gates as a run's models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.bundle import Bundle
from mvp_deploy.export.pack import Order, calibration_images, held_out, pack, reference
from mvp_deploy.export.subjects import Interface, Subject
from mvp_deploy.structure import KeepPlan
from mvp_deploy.structure.fakes import copy_with
from mvp_deploy.tasks import Images
from mvp_deploy.tasks.own import check_classifier, labelled
from mvp_deploy.tasks.task import Split

UINT8 = "onnx-uint8"  # the target whose files take images as bytes


def export_modules(
    models: Mapping[str, nn.Module],
    out: str | os.PathLike[str],
    interface: Interface,
    train: Images,
    test: Images,
    order: Order,
    *,
    split: Split | None = None,
    keep: KeepPlan | None = None,
    seed: int = 0,
    reporter: Reporter,
) -> Bundle:
    """Export modules, check them on held-out images, and write the bundle ``out``. The modules stay as they are.

    Args:
        models: by name: ``model`` alone, or ``unpruned`` and ``pruned``.
        interface: without classes, the outputs are numbered.
        train: images to measure the ranges of fp16 and int8 on.
        test: images that judge.
        split: the files that ``test`` was prepared from.
        keep: which units of the unpruned model the pruned one has.

    Raises:
        MvpError: (INPUT) a model does not give one logit for each class; (PARITY, ACCURACY) no file of the last model
            passed.
    """
    if interface.preprocessing is None and any(each.exporter.name == UINT8 for each in order.wanted):
        raise InputError(f"{UINT8} puts the preprocessing into the file, and only you know it: pass preprocessing=.")
    copies = {name: copy_with(model, {}).eval().to(test.device) for name, model in models.items()}
    for model in copies.values():
        check_classifier(model, train)
        check_classifier(model, test)
    ours = copies[next(reversed(copies))]
    if not interface.classes:
        interface = replace(interface, classes=_numbers(ours, interface.example.to(test.device)))
    if (test.labels < 0).any():
        reporter.warn("The data have no labels: accuracy is the share of images on which a file agrees with PyTorch.")
    train, test = labelled(train, ours), labelled(test, ours)
    subjects = [_subject(name, model, interface, test) for name, model in copies.items()]
    images = calibration_images(train, seed, reporter) if order.calibrates else None
    labels = test.labels.cpu().numpy()
    about: dict[str, Any] = {
        "task": {
            "name": "images given from Python",
            "held_out": _fingerprint(test),
            "images": {"train": len(train), "test": len(test)},
        },
        "backbone": {"name": type(subjects[-1].model).__name__},
        "metrics": {
            each.name: {
                "accuracy": float((each.logits.argmax(1) == labels).mean()),
                "params": each.params,
                "macs": each.macs,
            }
            for each in subjects
        },
        "seed": seed,
    }
    return pack(out, subjects, held_out(test, split, seed), images, about, keep, order, reporter)


def _subject(name: str, model: nn.Module, interface: Interface, test: Images) -> Subject:
    """A module with its sizes and what it gives for the held-out images."""
    logits = reference(model, test)
    macs = _macs(model, interface.example.to(test.device))
    if logits.ndim != 2 or logits.shape[1] != len(interface.classes):
        raise InputError(
            f"{type(model).__name__} gives {list(logits.shape[1:])} for an image, and there are "
            f"{len(interface.classes)} classes: pass the module whose outputs are the classes' logits, in their order."
        )
    params = sum(parameter.numel() for parameter in model.parameters())
    return Subject(name, model, interface, params, macs, logits)


@torch.no_grad()
def _numbers(model: nn.Module, example: torch.Tensor) -> tuple[str, ...]:
    """Names for the outputs of a model whose classes have none."""
    return tuple(map(str, range(model(example).shape[-1])))


@torch.no_grad()
def _macs(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates for one image."""
    with FlopCounterMode(display=False) as counter:
        model(example)
    return int(counter.get_total_flops()) // 2


def _fingerprint(images: Images) -> str:
    """SHA-256 over the images as the model takes them, and their labels."""
    digest = sha256(images.labels.cpu().numpy().astype("<i8").tobytes())
    for x, _ in images.batches(64):
        digest.update(x.cpu().numpy().tobytes())
    return digest.hexdigest()
