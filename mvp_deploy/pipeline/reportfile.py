"""report.json as a type: what is written there, and all that a later run takes from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvp_deploy.bank.ask import Votes
from mvp_deploy.base.errors import ExitCode, InputError
from mvp_deploy.base.formats import Classes, Count, Within
from mvp_deploy.benchmark.format import Machine, Times
from mvp_deploy.bundle import ModelFile
from mvp_deploy.pipeline.gates import Verdict
from mvp_deploy.pipeline.steps import Done
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.remote.measured import OnDevice
from mvp_deploy.runs.format import Both, Group, Images


@dataclass(frozen=True)
class Model(ModelFile):
    """A model of the bundle."""

    bytes: Annotated[int, Within(1, 2**53)] = field(kw_only=True)


@dataclass(frozen=True)
class TaskReport:
    """What was found of a task; of one that failed on the way, only how and where."""

    code: ExitCode
    outcome: Literal["met", "failed", "error"]
    error: str | None
    steps: tuple[Done, ...]
    gates: tuple[Verdict, ...]
    data: str | None = None
    bundle: str | None = None
    metrics: Both | None = None
    images: Images | None = None
    classes: Classes | None = None
    groups: tuple[Group, ...] | None = None
    votes: Votes | None = None
    recipe: dict[str, str | int | float | bool | None] | None = None
    budget: Budget | None = None
    seed: Count | None = None
    models: Annotated[tuple[Model, ...], Within(1, 10_000)] | None = None
    held_out: str | None = None
    times: Times | None = None
    devices: dict[str, OnDevice] | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        found = ("metrics", "images", "classes", "groups", "votes", "recipe", "budget", "seed", "models", "times")
        missing = [name for name in found if getattr(self, name) is None]
        if missing and len(missing) < len(found):
            raise InputError(f"{missing[0]} is missing")


@dataclass(frozen=True)
class Report:
    """report.json."""

    schema: Literal[1]
    code: ExitCode
    time: str
    only: tuple[str, ...]
    environment: Machine
    gone: tuple[str, ...]
    tasks: dict[str, TaskReport]
    commit: str | None = None  # of the folder that it ran in
