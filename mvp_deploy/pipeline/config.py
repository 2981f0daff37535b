"""deploy.yaml as types: what every key means, which values it takes, and what holds where it is left out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mvp_deploy.base.bounds import (
    BATCH,
    DEVICE,
    DURATION,
    FRACTION,
    LEARNING_RATE,
    ROUND_TO,
    SEED,
    SHARE,
    THREADS,
    TRAINING_BATCH,
    TUNING_STEPS,
    Bounds,
)
from mvp_deploy.base.errors import MvpError
from mvp_deploy.exporters.protocol import exporters
from mvp_deploy.pruning.recipes import Recipe, changed, recipe_named


def within(bounds: Bounds) -> dict[str, Any]:
    """The bounds in pydantic's words."""
    return {"gt" if bounds.above else "ge": bounds.low, "le": bounds.high}


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a text (it wants 1.0e-3); people mean a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_number)]
Share = Annotated[Number, Field(**within(SHARE))]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]  # a folder's, on any file system
Batch = Annotated[int, Field(**within(BATCH))]
Precision = Literal["fp32", "fp16", "int8"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, str_max_length=4096)


class BudgetSection(Section):
    """How much of the backbone to keep."""

    fraction: Number = Field(0.3, **within(FRACTION), description="Of the unpruned model's.")
    of: Literal["units", "macs", "params"] = Field("units", description="What the fraction counts.")
    round_to: int = Field(8, **within(ROUND_TO), description="Keep channels in multiples of this.")


class RecipeSection(Section):
    """How neighbours vote."""

    name: str = Field("default", description="default, paper, one-shot, compensated, own, magnitude or random.")
    set: dict[str, str | int | float | bool] = Field(
        {}, description="Fields of the recipe to change, as neighbours: 3."
    )

    @model_validator(mode="after")
    def _known(self) -> RecipeSection:
        self.recipe()
        return self

    def recipe(self) -> Recipe:
        """What is asked for. Raises ValueError where there is no such recipe, field or value."""
        try:
            return changed(recipe_named(self.name), [f"{name}={value}" for name, value in self.set.items()])
        except MvpError as error:
            raise ValueError(str(error)) from error


class TrainingSection(Section):
    """Fine-tuning of the pruned and of the unpruned model."""

    steps: int = Field(200, **within(TUNING_STEPS), description="Of each model; 0: none.")
    batch_size: int = Field(64, **within(TRAINING_BATCH))
    lr: Number | None = Field(
        None, **within(LEARNING_RATE), description="Highest learning rate; by the optimizer if left out."
    )
    optimizer: Literal["sgd", "adamw"] | None = Field(None, description="By the backbone if left out.")
    flip: bool = Field(False, description="Mirror images left to right (not for digits or letters).")


class ExportSection(Section):
    """Which files to make of each model."""

    targets: list[str] = Field(["onnx"], min_length=1, description="onnx, openvino, executorch, tensorrt, …")
    precisions: list[Precision] = Field(["fp32"], min_length=1)
    int8_method: Literal["minmax", "entropy", "percentile", "mse"] = Field(
        "entropy", description="How int8's ranges are chosen."
    )
    max_drop: Share = Field(0.01, description="Accuracy that fp16 and int8 may lose against fp32, 0 to 1.")

    @field_validator("targets")
    @classmethod
    def _known(cls, targets: list[str]) -> list[str]:
        """Other packages may bring targets, so the schema cannot list them."""
        if unknown := [name for name in targets if name not in exporters()]:
            raise ValueError(f"there is no target {unknown[0]!r}; installed: {', '.join(exporters())}")
        return targets


class BenchmarkSection(Section):
    """How to measure latency."""

    batches: list[Batch] = Field([1], description="Batch sizes; none: nothing is timed.")
    duration: Number = Field(3.0, **within(DURATION), description="Seconds of timed runs per model and batch size.")
    threads: int | None = Field(None, **within(THREADS), description="CPU threads; one per core if left out.")


class Where(Section):
    """Which measurements a limit is for; what is left out fits all."""

    runtime: str | None = Field(None, description="As onnxruntime or openvino.")
    precision: Precision | None = None
    batch: Batch | None = None


class LatencyLimit(Where):
    at_most_ms: Number = Field(gt=0, le=1e9, description="Median milliseconds of the pruned model.")


class SpeedUpLimit(Where):
    at_least: Number = Field(gt=0, le=1e6, description="Times faster than the unpruned model.")


class GatesSection(Section):
    """Limits that a task must meet, or the build is red."""

    min_accuracy: Share | None = Field(None, description="Of every exported pruned model, 0 to 1.")
    max_drop: Share | None = Field(None, description="Accuracy lost against the unpruned model, 0 to 1.")
    max_size_mb: Number | None = Field(None, gt=0, le=1e9, description="Of every exported pruned model's file.")
    max_parity: Number | None = Field(
        None, gt=0, le=1, description="Difference of fp32 files from PyTorch's logits, relative to the largest of them."
    )
    latency: list[LatencyLimit] = []
    speed_up: list[SpeedUpLimit] = []
    max_regression: Number = Field(
        0.05, ge=0, le=100, description="How much slower or larger than the --baseline run is still accepted."
    )


class TaskSection(Section):
    """One task; what is set here is for it alone and goes before what is set for all."""

    data: str = Field(description="SOURCE or SOURCE#class,class: folder, .npz, URL of one, or digits.")
    skip_bad: bool = Field(False, description="Leave out unreadable images, counting them.")
    budget: BudgetSection = BudgetSection()
    recipe: RecipeSection = RecipeSection()
    training: TrainingSection = TrainingSection()
    export: ExportSection = ExportSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    gates: GatesSection = GatesSection()

    @model_validator(mode="after")
    def _measured(self) -> TaskSection:
        """A limit for what will not be measured fails for certain: better now than after hours."""
        for limit in [*self.gates.latency, *self.gates.speed_up]:
            for key, value, made in (
                ("precision", limit.precision, self.export.precisions),
                ("batch", limit.batch, self.benchmark.batches),
            ):
                if value is not None and value not in made:
                    given = ", ".join(map(str, made)) or "none"
                    raise ValueError(f"a gate is for {key} {value}, and what is measured has {key} {given}")
        return self


SHARED = ("budget", "recipe", "training", "export", "benchmark", "gates")


class Config(Section):
    """A deploy.yaml of mvp-deploy. Paths are relative to the file, and may be fsspec URLs."""

    bank: str = Field(description="The bank whose tasks vote: a folder, or the URL of one.")
    backbone: str | None = Field(None, description="The bank's backbone; a bank of another one is refused.")
    out: str = Field("deploy", description="Folder for bundles, reports and unfinished work; or a URL.")
    device: str = Field("auto", pattern=DEVICE, description="For training: auto, cpu, cuda or cuda:N.")
    seed: int = Field(0, **within(SEED))
    budget: BudgetSection = BudgetSection()
    recipe: RecipeSection = RecipeSection()
    training: TrainingSection = TrainingSection()
    export: ExportSection = ExportSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    gates: GatesSection = GatesSection()
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
    for section in SHARED:
        ours, own = shared.get(section), task.get(section, {})
        if isinstance(ours, dict) and isinstance(own, dict):
            merged[section] = {**ours, **own}
    return merged
