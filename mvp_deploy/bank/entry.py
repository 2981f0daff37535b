"""A task on disk as the bank keeps it: one safetensors file with a JSON header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from mvp_deploy.bank.signature import Signature
from mvp_deploy.base import formats, tensorfile
from mvp_deploy.base.formats import Amount, Classes, Sha256, Share, Within
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import Round, Schedule
from mvp_deploy.structure import KeepPlan
from mvp_deploy.structure.plan import PackedMask
from mvp_deploy.training import TrainConfig

FORMAT = 1


@dataclass(frozen=True)
class Metrics:
    """How good a stored task's model is, and how large; beside the unpruned one."""

    accuracy: Share
    unpruned_accuracy: Share
    units: Share
    params: Amount
    macs: Amount
    unpruned_params: Annotated[float, Within(1, 1e18)]
    unpruned_macs: Annotated[float, Within(1, 1e18)]


@dataclass(frozen=True)
class Cost:
    """What it cost to make."""

    steps: Amount
    seconds: Amount
    macs: Amount


@dataclass(frozen=True)
class Details:
    """How it was pruned."""

    budget: Budget
    schedule: Schedule
    training: TrainConfig
    data: str
    versions: dict[str, str]
    rounds: tuple[Round, ...]
    source: str | None = None  # the task's name from whatever folder one asks; older files do not say
    cost: Annotated[str, Within(0, 2000)] | None = None  # the profile that a budget of milliseconds went by


@dataclass(frozen=True)
class Header:
    """The JSON header of a stored task's file."""

    format: int
    name: str
    classes: Classes
    data: str
    backbone: Sha256
    metrics: Metrics
    cost: Cost
    details: Details
    plan: dict[str, PackedMask]


FORM = tensorfile.Form(Header, FORMAT)


@dataclass(frozen=True)
class Record:
    """A task to store: what it is, how it was pruned, how good that is, what it cost."""

    name: str
    classes: tuple[str, ...]
    data: str  # fingerprint of the task's images
    plan: KeepPlan
    weights: Mapping[str, Tensor]
    scores: Mapping[str, np.ndarray]  # importance of every unit to the unpruned model, group -> [size]
    signature: Signature
    metrics: Mapping[str, float]  # accuracy, unpruned_accuracy (0..1), units (fraction), params, macs, unpruned_*
    cost: Mapping[str, float]  # steps, seconds, macs
    details: Mapping[str, Any]  # settings, rounds, versions

    def save(self, path: Path, backbone: str) -> None:
        """Write the task, whole or not at all; backbone: the fingerprint of the bank's."""
        header = {
            "format": FORMAT,
            "name": self.name,
            "classes": list(self.classes),
            "data": self.data,
            "backbone": backbone,
            "metrics": dict(self.metrics),
            "cost": dict(self.cost),
            "details": dict(self.details),
            "plan": self.plan.to_json(),
        }
        scores = {name: torch.from_numpy(value.astype(np.float32)) for name, value in self.scores.items()}
        sections = {"weights": self.weights, "scores": scores, "signature": self.signature.tensors()}
        tensorfile.save(path, header, sections, FORM)


@dataclass(frozen=True)
class Entry:
    """What a listing shows of a stored task, from its header alone."""

    name: str
    path: Path
    classes: tuple[str, ...]
    data: str
    backbone: str
    metrics: Mapping[str, float]
    cost: Mapping[str, float]
    details: Mapping[str, Any]
    plan_json: Mapping[str, Any]

    @property
    def plan(self) -> KeepPlan:
        return KeepPlan.from_json(self.plan_json)

    @classmethod
    def read(cls, path: Path) -> Entry:
        header = tensorfile.read_header(path, FORM)
        same = {name: header[name] for name in ("name", "data", "backbone", "metrics", "cost", "details")}
        return cls(path=path, classes=tuple(header["classes"]), plan_json=header["plan"], **same)

    def weights(self) -> dict[str, Tensor]:
        """The pruned model's weights (with its head)."""
        return tensorfile.load(self.path, ["weights"])[1]["weights"]

    def scores(self) -> dict[str, np.ndarray]:
        """Importance of every unit, group name -> float64 [size]."""
        stored = tensorfile.load(self.path, ["scores"])[1]["scores"]
        sizes = {name: (len(mask),) for name, mask in self.plan.masks.items()}
        if {name: tuple(value.shape) for name, value in stored.items()} != sizes or not _finite(stored):
            raise formats.damaged(self.path, "its scores are not one finite number for each unit", tensorfile.CURE)
        return {name: value.double().numpy() for name, value in stored.items()}

    def signature(self) -> Signature:
        stored = tensorfile.load(self.path, ["signature"])[1]["signature"]
        shapes = {name: tuple(value.shape) for name, value in stored.items()}
        features = shapes.get("mean", (0, 0))[-1]
        if shapes != {"mean": (len(self.classes), features), "count": (len(self.classes),)} or not _finite(stored):
            raise formats.damaged(self.path, "its signature has not one finite mean for each class", tensorfile.CURE)
        return Signature.from_tensors(stored)

    def check(self) -> None:
        """Read all of the file. Raises MvpError if it is damaged."""
        tensorfile.load(self.path)


def _finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in tensors.values())
