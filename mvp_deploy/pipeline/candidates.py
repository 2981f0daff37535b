"""Candidates of a frontier: one backbone at one image size, unpruned, cut and tuned, each as the file to be shipped."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
from torch import Tensor, nn

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone
from mvp_deploy.base.files import write_text
from mvp_deploy.base.formats import Count, Within, read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.statistics import ratio_interval
from mvp_deploy.calibration.guard import Limit
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.export.config import Exports
from mvp_deploy.export.graphs import Graphs
from mvp_deploy.export.pack import calibration_images
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.latency.format import Precision, Profile
from mvp_deploy.latency.front import Candidate, Frontier
from mvp_deploy.latency.meet import CORRECTIONS, SLACK, TOLERANCE, Meeting, Target
from mvp_deploy.latency.pieces import layout
from mvp_deploy.pipeline.asked import CUT, Search, Source
from mvp_deploy.pipeline.judge import calibration_accuracy, held_out_accuracy, leave_one_out, time_files
from mvp_deploy.pruning.blocks import Worth
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.making import make as make_pruned
from mvp_deploy.pruning.mvp import importances, worth_of_blocks
from mvp_deploy.pruning.original import Original, suited
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.pruning.tuning import MadeOf, tune
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images, prepare

EXPONENT = 0.87  # time = MACs ^ this, until a model's first cut tells its own: of lite0 and resnet50 in docs/latency.md
DEEPEST = 0.2  # of an unpruned model: cuts to less than this are not made for a time


@dataclass(frozen=True, eq=False)
class Model:
    """A model that no training has seen, what stays in it, it as float32 ONNX, and what makes it of fewer images."""

    plan: KeepPlan
    module: nn.Module
    onnx: bytes
    of_fewer: MadeOf | None = None


@dataclass(frozen=True)
class Tuning:
    """What fine-tuning gave, in all precisions of one model.

    steps: that the model has seen, 0 where they did not help. gain: of accuracy, on images set aside.
    """

    steps: Count
    gain: Annotated[float, Within(-1, 1)]


class Place:
    """One backbone at one image size, and what all its candidates share."""

    def __init__(self, asked: Search, source: Source, size: int, out: Path, reporter: Reporter) -> None:
        self.asked, self.task, self.source, self.size, self.seed = asked, asked.task, source, size, asked.seed
        self.out, self.reporter = out, reporter
        self._last: tuple[tuple[object, ...], Model] | None = None  # precisions of one model follow each other

    def known(self, found: Frontier, share: float, precision: Precision) -> bool:
        """Whether it was made, or cannot be."""
        failed = [(each.backbone, each.image_size, each.share, each.precision) for each in found.failed]
        made = any(each.share == share for each in self._mine(found, precision))
        return made or (self.source.name, self.size, share, precision) in failed

    def hopeless(self, found: Frontier, share: float, precision: Precision) -> bool:
        """Whether a cut would still be slower than the budget, or what it is cut from could not be made."""
        whole, limit = self._whole(found, precision), self.asked.milliseconds
        return share < 1 and (whole is None or (limit is not None and share * whole.ms > 1.1 * limit))

    def aimed(self, found: Frontier, precision: Precision) -> float | None:
        """The share of a cut that takes the time asked for; None where none is needed, or none is worth a try.

        It follows from what was measured, so that a call after a kill finds the same: times fall as a power of the
        share. A cut that missed the time is corrected, at most twice, as `prune` does.
        """
        whole, limit, mine = self._whole(found, precision), self.asked.milliseconds, self._mine(found, precision)
        if limit is None or whole is None or whole.ms <= limit or sum(c.aim == limit for c in mine) > CORRECTIONS:
            return None
        near = min(mine, key=lambda c: abs(math.log(c.ms / limit)))
        if (1 - SLACK) * limit <= near.ms <= limit:
            return None
        if near.unpruned:
            exponent = EXPONENT if near.of == "macs" else 1.0
        else:
            exponent = min(max(math.log(near.ms / whole.ms) / math.log(near.share), 0.5), 1.5)
        further = ((1 - TOLERANCE) * limit / near.ms) ** (1 / exponent)
        share = math.floor(1000 * near.share * further) / 1000
        return share if DEEPEST <= share < 1 and not self.known(found, share, precision) else None

    def _whole(self, found: Frontier, precision: Precision) -> Candidate | None:
        return next((each for each in self._mine(found, precision) if each.unpruned), None)

    def _mine(self, found: Frontier, precision: Precision) -> list[Candidate]:
        mine = self.source.name, self.size, precision, 0
        return [
            each for each in found.candidates if (each.backbone, each.image_size, each.precision, each.steps) == mine
        ]

    def candidate(self, share: float, precision: Precision, found: Frontier) -> Candidate:
        """A model as it is before any training."""
        start = time.monotonic()
        made = Candidate(
            backbone=self.source.name,
            image_size=self.size,
            share=share,
            of="macs" if self.profile(precision) is None else "latency",
            macs=0,
            loo=0.0,
            accuracy=0.0,
            tested=len(self.images[1]),
            ms=1.0,
            file="",
            seconds=0.0,
            precision=precision,
        )
        model = self._untuned(share, precision)
        made = replace(made, macs=self.original.cost(model.plan).macs)
        made = self._measured(made, model.onnx, found)
        file = self.out / made.file
        loo = leave_one_out(file, self.asked.conditions, self.images[0], self.original.num_classes)
        return replace(made, loo=loo, seconds=time.monotonic() - start)

    def tuned(self, twin: Candidate, found: Frontier) -> Candidate | None:
        """A candidate after fine-tuning; None where that does not help on images set aside."""
        start = time.monotonic()
        tuning, onnx = self._tuned(twin.share, twin.precision)
        if not tuning.steps:
            return None
        made = replace(twin, steps=tuning.steps, loo=min(1.0, twin.loo + tuning.gain))
        made = self._measured(made, onnx.read_bytes(), found)
        return replace(made, seconds=time.monotonic() - start)

    def _measured(self, made: Candidate, onnx: bytes, found: Frontier) -> Candidate:
        """The candidate with its file, and what that gives and takes in its runtime."""
        conditions = self.asked.conditions
        tuned = f"-{made.steps}steps" if made.steps else ""
        name = f"models/{self._name(made.share)}{tuned}.{made.precision}.onnx"
        self._convert(onnx, made.precision, self.out / name)
        accuracy = held_out_accuracy(self.out / name, conditions, self.images[1])
        made = replace(made, accuracy=accuracy, file=name)
        first = found.candidates[:1]
        ms = time_files(self.out, [*first, made], conditions, self.reporter)
        # beside the first candidate, whose first time stands
        timed = ratio_interval(ms[1] / ms[0] * first[0].ms if first else ms[0])
        return replace(made, ms=timed.value, ms_factor=timed.high / timed.value)

    def _name(self, share: float) -> str:
        """As files have it."""
        return f"{self.source.name.replace('/', '-').replace(':', '-')}-{self.size}-{share:g}"

    def _convert(self, onnx: bytes, precision: Precision, file: Path) -> None:
        """Write the float32 model in its precision, as `export` makes it."""
        conditions, how = self.asked.conditions, Exports()
        with TemporaryDirectory() as folder:
            source = Path(folder, "fp32.onnx")
            source.write_bytes(onnx)

            def limit() -> Limit:
                images = self.calibration
                return Limit(lambda tried: calibration_accuracy(tried, conditions, images), len(images), how.max_drop)

            graphs = Graphs(source, None if precision == "fp32" else self.calibration, how, Path(folder))
            made = graphs.get(precision, "cpu" if conditions.form == "cpu" else "tensorrt", limit)
            write_bytes(file, made.path.read_bytes())

    @cached_property
    def made(self) -> tuple[Backbone, dict[str, Tensor]]:
        source = self.source
        return backbones.create(
            source.name, pretrained=source.pretrained, weights=source.weights, image_size=self.size, seed=self.seed
        )

    @cached_property
    def original(self) -> Original:
        return Original.create(*self.made, len(self.task.classes), seed=self.seed)

    @cached_property
    def images(self) -> tuple[Images, Images]:
        how = self.made[0].preprocessing
        return prepare(self.task.train, how), prepare(self.task.test, how)

    @cached_property
    def calibration(self) -> CalibrationImages:
        return calibration_images(self.images[0], self.seed, self.reporter)

    @cached_property
    def turned(self) -> Original:
        """What is cut: the same backbone, its linear streams in principal directions, as `prune` has them."""
        made = rotate(*self.made, self.images[0], num_classes=len(self.task.classes), seed=self.seed)
        return Original.create(*made, len(self.task.classes), seed=self.seed)

    @cached_property
    def importances(self) -> Callable[[str], Scores]:
        return importances(self.turned, self.images[0], seed=self.seed)

    @cached_property
    def worth(self) -> Worth | None:
        """Of whole blocks."""
        return worth_of_blocks(self.turned, self.images[0], seed=self.seed)

    def profile(self, precision: Precision) -> Profile | None:
        """Of this place: in that precision, else in another, which tells wide layers from narrow ones as well."""
        mine = layout(self.original.structure), self.made[0].preprocessing.input_size
        found = [each for each in self.asked.profiles if (each.layout, each.input_size) == mine]
        return min(found, key=lambda each: each.precision != precision, default=None)

    def _untuned(self, share: float, precision: Precision) -> Model:
        key = share, self.profile(precision) if share < 1 else None
        if self._last is None or self._last[0] != key:
            self._last = key, self._cut(*key)
        return self._last[1]

    def _cut(self, share: float, profile: Profile | None) -> Model:
        if share == 1:
            return self._exported(self.original.full, self.original.headed(self.images[0]).model)
        original, budget, meeting = self.turned, Budget(share, "macs"), None
        if profile is not None:
            target, parts = Target(speed_up=1 / share), original.structure
            meeting = Meeting(parts, profile, target, round_to=8, timer=None, reporter=self.reporter)
            budget = meeting.budget
        found = make_pruned(
            original,
            self.images[0],
            (),
            CUT,
            budget,
            importance=self.importances,
            allocate=meeting,
            worth=lambda: self.worth,
            seed=self.seed,
        )
        made = self._exported(found.decision.plan, found.model)
        return replace(made, of_fewer=found.of_fewer(original, self.seed))

    def _tuned(self, share: float, precision: Precision) -> tuple[Tuning, Path]:
        """What tuning gave, and the tuned model as float32 ONNX, kept for its other precisions."""
        cut_by = None if share == 1 else self.profile(precision)
        steps = f"-by-{cut_by.precision}" if cut_by else ""
        name = f"{self._name(share)}{steps}-{self.asked.training.steps}steps"
        file, onnx = (self.out / "models" / f"{name}.tuned.{kind}" for kind in ("json", "onnx"))
        if file.exists():
            return read_json(file, Tuning, cure="remove it and call again"), onnx
        untuned = self._untuned(share, precision)
        model = copy.deepcopy(untuned.module)
        config = suited(self.made[0], self.asked.training, self.seed)
        with self.reporter.progress("tuning") as step:
            done = tune(
                model,
                self.original.classifier,
                self.images[0],
                config,
                made_of=untuned.of_fewer,
                checkpoint=file.with_suffix(""),
                progress=step,
            )
        found = Tuning(0, 0.0)
        if done.kept and done.before and done.trial:
            found = Tuning(done.kept, done.trial.accuracy - done.before.accuracy)
            write_bytes(onnx, self._exported(untuned.plan, model).onnx)
        write_text(file, json.dumps(asdict(found)))
        return found, onnx

    def _exported(self, plan: KeepPlan, model: nn.Module) -> Model:
        size = self.made[0].preprocessing.input_size
        with TemporaryDirectory() as folder:
            file = Path(folder, "fp32.onnx")
            export_onnx(model, torch.zeros(1, *size), file, {"classes": list(self.task.classes)})
            return Model(plan, model, file.read_bytes())
