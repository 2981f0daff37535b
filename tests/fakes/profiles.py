"""Profiles of a machine that is not there: times by a formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from fakes.models import classifier
from mvp_deploy.latency import pack
from mvp_deploy.latency.format import (
    FORMAT,
    Conditions,
    Form,
    Kernel,
    Layer,
    Machine,
    Precision,
    Profile,
    Run,
    Sample,
    Subject,
    Variant,
)
from mvp_deploy.latency.pieces import draw, layout, shapes_of
from mvp_deploy.pruning.linear import linear_layers
from mvp_deploy.structure import Structure, analyze

Time = Callable[[int, int], float]


def chain(*widths: int) -> torch.nn.Module:
    """Convolutions one after another, then a classifier of 4."""
    layers: list[torch.nn.Module] = []
    for inputs, outputs in zip((3, *widths), widths, strict=False):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, padding=1), torch.nn.ReLU()]
    pool = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(widths[-1], 4)]
    return torch.nn.Sequential(*layers, *pool)


def structure_of(model: torch.nn.Module, size: int = 8) -> Structure:
    return analyze(model, torch.zeros(1, 3, size, size))


def profile_by(
    model: torch.nn.Module,
    structure: Structure,
    time: Time,
    *,
    overhead: float = 0.1,
    precision: Precision = "fp32",
) -> Profile:
    """What a machine would be found to be on which a layer of r rows and c columns takes ``time(r, c)`` ms."""
    layers = tuple(linear_layers(model, structure.example))
    variants = [shapes_of(structure, layers, counts) for counts in draw(structure, precision=precision)]
    kernels = [
        Kernel(name, tuple(Sample(shapes[place], time(*shapes[place])) for shapes in variants))
        for place, name in enumerate(layers)
    ]
    runs = [Run(shapes, overhead + sum(time(*shape) for shape in shapes)) for shapes in variants]
    _, *size = structure.example[0].shape
    return Profile(
        FORMAT,
        "made",
        layout(structure),
        (size[0], size[1], size[2]),
        precision,
        Conditions("onnxruntime"),
        "1.0",
        Machine("none", 1, "none"),
        tuple(Layer(name, place) for place, name in enumerate(layers)),
        tuple(kernels),
        tuple(runs),
        noise=0.0,
        stable=True,
    )


def blocks_of(step: int) -> Time:
    """A machine that computes in blocks of ``step`` channels, and reads fewer columns than one block one by one."""

    def time(rows: int, columns: int) -> float:
        padded = columns if columns < step else -(-columns // step) * step
        return 0.01 + 1e-4 * -(-rows // step) * step * padded

    return time


def wrong(profile: Profile, by: float) -> Profile:
    """The same where every second whole model takes ``by`` times what its layers do: it predicts badly."""
    runs = tuple(replace(run, ms=run.ms * by ** (number % 2)) for number, run in enumerate(profile.runs))
    return replace(profile, runs=runs)


def tiny_pieces(folder: Path, form: Form = "cpu") -> Path:
    """Pieces of a classifier at four widths, as a workstation makes them, in one file."""
    folder.mkdir()
    widths = (16, 8, 12, 4)
    for number, channels in enumerate(widths):
        classifier(folder / f"{number:02}.onnx", channels=channels)
        labels = {"conv": 0, "features": 0, "positive": 0, "relu": 0, "mean": 0, "fc": 1, "logits": 1}
        variant = Variant(((channels, 3), (4, channels)), ("Conv", "Gemm"), labels)
        (folder / f"{number:02}.json").write_text(json.dumps(asdict(variant)), encoding="utf-8")
    layers = ("conv.weight", "fc.weight")
    counts = tuple({"conv": channels} for channels in widths)
    subject = Subject(FORMAT, "tiny", "0" * 64, (3, 8, 8), "fp32", form, layers, counts)
    (folder / "subject.json").write_text(json.dumps(asdict(subject)), encoding="utf-8")
    pack.pack(folder, subject, folder.with_suffix(".zip"))
    return folder.with_suffix(".zip")
