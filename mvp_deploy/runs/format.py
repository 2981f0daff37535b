"""run.json as a type: what is written there, and all that is taken from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mvp_deploy.backbones import Backbone
from mvp_deploy.bank.ask import Votes
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Amount, Classes, Count, Sha256, Share, Size
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.tasks import Preprocessing
from mvp_deploy.training import TrainConfig


@dataclass(frozen=True)
class Metrics:
    """Of one of the two models; accuracy on the held-out part."""

    accuracy: Share
    units: Share
    params: Count
    macs: Count
    steps: Count
    seconds: Amount
    accuracy_before_tuning: Share | None = None
    exactness: Amount | None = None
    making: dict[str, Any] = field(default_factory=dict)  # for people: what each step of its making gave


@dataclass(frozen=True)
class Both:
    pruned: Metrics
    unpruned: Metrics


@dataclass(frozen=True)
class Group:
    """How many of a group's units stayed; unanimity: how far the voters agreed on them."""

    name: str
    kind: str
    size: Size
    kept: Count
    unanimity: Share | None

    def __post_init__(self) -> None:
        if self.kept > self.size:
            raise InputError(f"{self.name} keeps {self.kept} of {self.size} units")


@dataclass(frozen=True)
class Images:
    """How many the two parts have."""

    train: Count
    test: Size


@dataclass(frozen=True)
class RunFile:
    """run.json, but for the checksum of itself."""

    format: int
    files: dict[str, Sha256]  # which models it is of
    inputs: str
    task: str
    source: str  # the task's name from whatever folder one asks
    data: str
    classes: Classes
    images: Images
    backbone: Backbone
    preprocessing: Preprocessing
    metrics: Both
    groups: tuple[Group, ...]
    votes: Votes
    recipe: dict[str, str | int | float | bool | None]
    budget: Budget
    training: TrainConfig
    seed: Count
    warnings: tuple[str, ...]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        if self.files.keys() != {"unpruned.safetensors", "pruned.safetensors"}:
            raise InputError("files does not name the run's two models")
