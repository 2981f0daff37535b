"""deploy.yaml as types: what every key means, which values it takes, and its default."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from mvp_deploy.base.bounds import BATCH, DEVICE, FRACTION, SEED, SHARE
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.formats import Within
from mvp_deploy.benchmark.config import Timed
from mvp_deploy.export.config import Exports
from mvp_deploy.exporters.protocol import Precision
from mvp_deploy.pruning.config import Budget
from mvp_deploy.pruning.recipes import RECIPES, Recipe, recipe_named
from mvp_deploy.training.config import Training

Share = Annotated[float, SHARE]
Positive = Annotated[float, Within(0.0, 1e9, above=True)]
Batch = Annotated[int, BATCH]


def _said(budget: Any) -> Any:
    """A fraction alone counted units once, and would be another model's if it now counted what is the default."""
    if isinstance(budget, dict) and "fraction" in budget and "of" not in budget:
        raise ValueError(
            "say by budget.of what budget.fraction counts: macs, params, or units (as where nothing was said before)"
        )
    return budget


def _counted(budget: Budget) -> Budget:
    if budget.of == "latency":
        raise ValueError("of must be macs, params or units")
    return budget


Counted = Annotated[Budget, BeforeValidator(_said), AfterValidator(_counted)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]  # a folder's, on any file system


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, str_max_length=4096)


def _recipe_fields() -> dict[str, Any]:
    """The JSON schema of the fields of a recipe, each of which may be changed."""
    schema = TypeAdapter(Recipe).json_schema()
    fields = {name: part for name, part in schema["properties"].items() if "description" in part}
    told = "Fields of the recipe to change, as neighbours: 3."
    return {"type": "object", "additionalProperties": False, "properties": fields, "default": {}, "description": told}


class RecipeSection(Section):
    """How neighbours vote."""

    name: str = Field("default", description=f"{', '.join(RECIPES)}.")
    set: Annotated[dict[str, str | int | float | bool], WithJsonSchema(_recipe_fields())] = {}

    @model_validator(mode="after")
    def _known(self) -> RecipeSection:
        self.recipe()
        return self

    def recipe(self) -> Recipe:
        """The recipe asked for. Raises ValueError if there is no such recipe, field or value."""
        try:
            return recipe_named(self.name, [f"{name}={value}" for name, value in self.set.items()])
        except MvpError as error:
            raise ValueError(str(error)) from error


class TimeSection(Section):
    """How fast the pruned model must be, in the budget's place."""

    latency_ms: Positive | None = Field(None, description="Milliseconds that it may take.")
    speed_up: Annotated[float, Within(1.0, 1e9)] | None = Field(
        None, description="Or: times faster than unpruned, in float32 if the profile's precision ships."
    )
    profile: str = Field(
        description="What the backbone's layers take: a file of mvp-deploy profile, or a device of devices.yaml, which "
        "is profiled once, and times the models."
    )

    @model_validator(mode="after")
    def _one(self) -> TimeSection:
        if (self.latency_ms is None) == (self.speed_up is None):
            raise ValueError("give latency_ms or speed_up")
        return self


class Where(Section):
    """Which measurements a limit is for; what is left out fits all."""

    runtime: str | None = Field(None, description="As onnxruntime or openvino.")
    precision: Precision | None = None
    batch: Batch | None = None


class LatencyLimit(Where):
    at_most_ms: Positive = Field(description="Median milliseconds of the pruned model.")


class SpeedUpLimit(Where):
    at_least: Positive = Field(description="Times faster than the unpruned model.")


class DeviceGates(Where):
    """Limits on one device of devices.yaml."""

    latency_ms: Positive | None = Field(None, description="Median milliseconds there, at most.")
    speed_up: Positive | None = Field(None, description="Times faster than unpruned there, at least.")

    @property
    def latency(self) -> list[LatencyLimit]:
        where = self.model_dump(include={"runtime", "precision", "batch"})
        return [] if self.latency_ms is None else [LatencyLimit(at_most_ms=self.latency_ms, **where)]

    @property
    def at_least(self) -> list[SpeedUpLimit]:
        where = self.model_dump(include={"runtime", "precision", "batch"})
        return [] if self.speed_up is None else [SpeedUpLimit(at_least=self.speed_up, **where)]


class GatesSection(Section):
    """Limits that a task must meet, or the build is red; under a device's name, limits on that device."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, DeviceGates] = Field(init=False)

    @property
    def devices(self) -> dict[str, DeviceGates]:
        return dict(self.__pydantic_extra__)

    min_accuracy: Share | None = Field(None, description="Of every exported pruned model, 0 to 1.")
    max_drop: Share | None = Field(None, description="Accuracy lost against the unpruned model, 0 to 1.")
    max_size_mb: Positive | None = Field(None, description="Of every exported pruned model's file.")
    max_parity: Annotated[float, FRACTION] | None = Field(
        None, description="Difference of fp32 files from PyTorch's logits, relative to the largest of them."
    )
    latency: list[LatencyLimit] = []
    speed_up: list[SpeedUpLimit] = []
    max_regression: Annotated[float, Within(0.0, 100.0)] = Field(
        0.05, description="How much slower or larger than the --baseline run is still accepted."
    )


class Shared(Section):
    """What can be set for all tasks, and for one."""

    budget: Counted = Budget()
    time: TimeSection | None = None
    recipe: RecipeSection = RecipeSection()
    training: Training = Training()
    export: Exports = Exports()
    benchmark: Timed = Timed()
    gates: GatesSection = GatesSection()


class TaskSection(Shared):
    """One task; keys set here override those set for all tasks."""

    data: str = Field(description="SOURCE or SOURCE#class,class: folder, .npz, URL of one, or digits.")
    skip_bad: bool = Field(False, description="Leave out unreadable images, counting them.")

    @model_validator(mode="after")
    def _measured(self) -> TaskSection:
        """A limit for what will not be measured fails for certain: better now than after hours."""
        for limit in [*self.gates.latency, *self.gates.speed_up, *self.gates.devices.values()]:
            for key, value, made in (
                ("precision", limit.precision, self.export.precisions),
                ("batch", limit.batch, self.benchmark.batches),
            ):
                if value is not None and value not in made:
                    given = ", ".join(map(str, made)) or "none"
                    raise ValueError(f"a gate is for {key} {value}, and what is measured has {key} {given}")
        return self


class Config(Shared):
    """A deploy.yaml of mvp-deploy. Paths are relative to the file, and may be fsspec URLs."""

    bank: str = Field(description="The bank whose tasks vote: a folder, or the URL of one.")
    backbone: str | None = Field(None, description="The bank's backbone; a bank of another one is refused.")
    out: str = Field("deploy", description="Folder for bundles, reports and unfinished work; or a URL.")
    device: str = Field("auto", pattern=DEVICE, description="For training: auto, cpu, cuda or cuda:N.")
    seed: Annotated[int, SEED] = 0
    tasks: dict[Name, TaskSection] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _share(cls, data: Any) -> Any:
        """Each task takes over what is set for all and not for it, key by key."""
        if not isinstance(data, dict) or not isinstance(data.get("tasks"), dict):
            return data
        tasks = {name: _inherit(data, task) for name, task in data["tasks"].items()}
        return {**data, "tasks": tasks}


def _inherit(shared: dict[str, Any], task: Any) -> Any:
    if not isinstance(task, dict):
        return task
    merged = dict(task)
    for section in Shared.model_fields:
        ours, own = shared.get(section), task.get(section, {})
        if isinstance(ours, dict) and isinstance(own, dict):
            merged[section] = {**ours, **own}
    return merged
