"""One command's work: from a model and a task's images to a checked, measured bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mvp_deploy import backbones, runs
from mvp_deploy.backbones import Backbone
from mvp_deploy.backbones.checkpoint import read_checkpoint
from mvp_deploy.bank.alone import alone
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import write_text
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.format import read_measurements
from mvp_deploy.bundle import Bundle
from mvp_deploy.export.config import Exports
from mvp_deploy.export.deploy import export_run
from mvp_deploy.export.pack import Order
from mvp_deploy.exporters.protocol import PRECISIONS
from mvp_deploy.latency.files import check_timed
from mvp_deploy.latency.format import Shipped
from mvp_deploy.latency.meet import Meet, Target
from mvp_deploy.pipeline.frontier import Searched
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.outputs import other_order
from mvp_deploy.report.frontier import candidates
from mvp_deploy.report.outcome import Outcome, outcome
from mvp_deploy.report.task import task_page
from mvp_deploy.tasks import Task, prepare
from mvp_deploy.tasks.task import Split
from mvp_deploy.training import TrainConfig, fit

SHORT = 100  # steps
EPOCHS, LEAST = 20, 300  # of a full training, at least so many steps
MEASURES = {"units": "units", "macs": "MACs", "params": "parameters"}
ORDER_IMAGES = 256  # are enough to see in which order a head has its classes
TIMED = 2  # steps
INT8_BLOCK = 16  # channels in which CPUs compute depthwise convolutions in int8 (docs/latency.md)
ONNXRUNTIME = "onnxruntime"
PROFILED = {"onnx": ONNXRUNTIME, "onnx-uint8": ONNXRUNTIME, "openvino": "openvino", "tensorrt": "tensorrt"}
"""Targets whose runtime can be profiled, and that runtime."""


class Timed(Protocol):
    """A time to meet (`mvp_deploy.latency.meet`)."""

    @property
    def target(self) -> Target: ...

    def meeting(
        self, backbone: Backbone, round_to: int, beside: Path, reporter: Reporter, *, shipped: Shipped
    ) -> tuple[Budget, Meet]:
        """The budget as a share of the unpruned time of what is shipped, and what allots the units."""


@dataclass(frozen=True, eq=False)
class Start:
    """The model to shrink.

    trained: ``state`` has the head that was trained for the task's classes. bank: whose tasks vote; None: none do.
    """

    backbone: Backbone
    state: Mapping[str, Tensor]
    trained: bool
    bank: Bank | None = None


@dataclass(frozen=True)
class Made:
    """What `shrink` leaves behind."""

    run: Path
    bundle: Bundle
    report: Path
    outcome: Outcome


def steps_of(train: str, images: int, batch_size: int) -> int:
    """How many steps 'none', 'short' or 'full' training takes."""
    full = max(LEAST, EPOCHS * -(-images // batch_size))
    return {"none": 0, "short": SHORT, "full": full}[train]


def from_checkpoint(
    file: Path,
    name: str | None,
    task: Task,
    *,
    classes: Sequence[str] = (),
    image_size: int | None = None,
    reporter: Reporter,
) -> Start:
    """A user's checkpoint, with its trained head if that is for the task's classes; otherwise as a backbone.

    Args:
        name: timm's name of the architecture, where the file does not say it.
        classes: of the checkpoint's outputs, in their order; by default in the data's.

    Raises:
        InputError: it does not fit, or its outputs stand in another order than the data's classes.
    """
    found = read_checkpoint(file, name, image_size=image_size)
    if classes and len(classes) != found.outputs:
        raise InputError(f"{file} has {found.outputs} outputs, and {len(classes)} classes were named for them.")
    if found.outputs != len(task.classes):
        reporter.warn(
            f"{file} tells {found.outputs} classes apart and the data have {len(task.classes)}: its head is dropped, "
            "and the rest is taken as a backbone."
        )
        backbone, state = backbones.create(found.backbone.name, weights=file, image_size=found.backbone.image_size)
        return Start(replace(backbone, preprocessing=found.backbone.preprocessing), state, trained=False)
    if classes:
        found = replace(found, names=tuple(classes)).ordered(task.classes)
    else:
        _require_order(file, found.backbone, found.state, task)
    return Start(found.backbone, found.state, trained=True)


def _require_order(file: Path, backbone: Backbone, state: Mapping[str, Tensor], task: Task) -> None:
    """Refuse a head whose outputs plainly stand in another order than the data's classes."""
    model = backbones.build(backbone, state, len(task.classes))
    order = other_order(model, prepare(_some(task, ORDER_IMAGES), backbone.preprocessing))
    if order is None:
        return
    trained = [task.classes[order.index(output)] for output in range(len(order))]
    raise InputError(
        f"The outputs of {file} stand in another order than the data's classes: judged by the training images they are "
        f"{', '.join(trained[:12])}{' …' if len(trained) > 12 else ''}. Name them in that order with --classes."
    )


def shrink(
    task: Task,
    start: Start,
    out: Path,
    how: runs.Pruning,
    asked: Exports,
    batches: Sequence[int],
    *,
    timed: Timed | None = None,
    searched: Searched | None = None,
    device: torch.device,
    reporter: Reporter,
) -> Made:
    """Prune, tune, export, check and time; a killed call goes on where it stopped when called again.

    Leaves ``out``/run, ``out``/bundle and ``out``/report.html.

    Args:
        asked: The targets and precisions to export.
        batches: The batch sizes to time.
        timed: A time to meet instead of the budget.
        searched: The search that found the model. Where it was best unpruned, nothing is cut; the report shows it.

    Raises:
        MvpError: what pruning and export raise; a target that is not installed is found before any work.
    """
    asked = replace(asked, precisions=tuple(dict.fromkeys(("fp32", *asked.precisions))))  # fp32: what the user had
    order = Order.of(asked, reporter, measure=batches)
    of, config = MEASURES[how.budget.of], how.training
    shipped = shipped_of(asked)
    goal = f"keep {how.budget.fraction:.0%} of its {of}"
    if searched is not None and searched.best.unpruned:
        goal, timed, how = "nothing is cut", None, replace(how, budget=Budget(1.0, "macs", how.budget.round_to))
        order = replace(order, threads=searched.found.conditions.threads)
    if timed is not None:
        than = " than in fp32" if timed.target.speed_up and shipped.precision != "fp32" else ""
        goal = f"{timed.target}{than}, {shipped.precision} in {shipped.runtime}"
    _announce(task, start, out, goal, config, order, device, reporter)
    bank = start.bank or alone(task, start.backbone, start.state, seed=config.seed)
    if timed is not None:
        if asked.targets[0] not in PROFILED:
            reporter.warn(
                f"{asked.targets[0]} cannot be profiled, so the time is met in ONNX Runtime: `mvp-deploy bench` tells "
                "what it takes in its own."
            )
        budget, meet = timed.meeting(bank.backbone, how.budget.round_to, out / "run", reporter, shipped=shipped)
        order = replace(order, threads=meet.profile.conditions.threads)  # in the end as the time was asked for
        check_timed(meet.profile, batches, None, reporter)
        if fast_enough(meet, bank, reporter):
            how = _uncut(how, start.trained)
        else:
            how = replace(how, budget=budget, meet=meet)
    elif shipped.precision == "int8" and how.budget.round_to % INT8_BLOCK:
        reporter.say(
            f"int8 may run faster with channels in multiples of {INT8_BLOCK} (`--round-to {INT8_BLOCK}`); a budget of "
            "milliseconds finds out (`--latency`, `--speed-up`)"
        )
    run = runs.prune_task(task, bank, out / "run", how, device=device, reporter=reporter)
    bundle, measurements = deliver(run, task, out, order, device, reporter, searched)
    return Made(run.folder, bundle, out / "report.html", outcome(bundle, measurements))


def runtimes_of(targets: Sequence[str]) -> list[str]:
    """The runtimes to profile for targets, each once; ONNX Runtime stands for those that cannot be profiled."""
    return list(dict.fromkeys(PROFILED.get(target, ONNXRUNTIME) for target in targets))


def shipped_of(asked: Exports) -> Shipped:
    """What a time is for: the smallest of the files asked for, in the first target's runtime."""
    smallest = max(asked.precisions, key=PRECISIONS.index)
    return Shipped(smallest, runtimes_of(asked.targets)[0])


def _uncut(how: runs.Pruning, trained: bool) -> runs.Pruning:
    """How a model is made that is fast enough as it is: it is only exported, after its own head was found."""
    training = replace(how.training, steps=0) if trained else how.training
    return replace(how, budget=Budget(1.0, "macs", how.budget.round_to), training=training)


def fast_enough(meet: Meet, bank: Bank, reporter: Reporter) -> bool:
    """Whether the bank's unpruned model is, by its profile and, where it can be timed, by the clock; which is said.

    Raises:
        MvpError: the profile is of another backbone, image size or version of this machine's runtime.
    """
    if not meet.unneeded:
        return False
    profile = meet.profile
    ms = meet(Original.create(bank.backbone, bank.state(), 2)).missed()
    if ms is not None:
        reporter.say(f"the unpruned model takes {ms:.3f} ms, not the {profile.full_ms:.3f} of its profile: it is cut")
        return False
    gained = "" if meet.target.gained == 1 else f", {meet.target.gained:.2f} times as fast as in float32"
    reporter.say(
        f"nothing is cut: the unpruned model takes {profile.full_ms:.3f} ms in {profile.precision}{gained}, which is "
        "fast enough. Ask for more to have it smaller."
    )
    return True


def deliver(
    run: runs.Run,
    task: Task,
    out: Path,
    order: Order,
    device: torch.device,
    reporter: Reporter,
    searched: Searched | None = None,
) -> tuple[Bundle, dict[str, Any] | None]:
    """Export a run into ``out``/bundle, time it and write ``out``/report.html; the bundle and its measurements."""
    reporter.say("\nExport, parity, latency")
    bundle = export_run(run.folder, out / "bundle", order, device=device, seed=run.info["seed"], reporter=reporter)
    measurements = read_measurements(bundle)
    first = [] if searched is None else [candidates(searched.found, "Why this model", searched.verdict)]
    write_text(out / "report.html", task_page(run.info, measurements, bundle, task.test, "bundle/", first))
    return bundle, measurements


def _announce(
    task: Task,
    start: Start,
    out: Path,
    goal: str,
    config: TrainConfig,
    order: Order,
    device: torch.device,
    reporter: Reporter,
) -> None:
    """Say what will be done, how long its training takes here, and where things go."""
    size = start.backbone.preprocessing.input_size[1]
    images = f"{len(task.train)} training and {len(task.test)} held-out images"
    kept = "its trained head stays" if start.trained else "its head is solved for the data"
    reporter.say(
        f"1. Prune {start.backbone.name} at {size} px ({goal}); {kept}. {images} of {len(task.classes)} classes"
    )
    if config.steps:
        each = _seconds_a_step(task, start, config, device)
        models = 1 if start.trained else 2
        seconds = each * config.steps * 3 * models  # two trials and the training
        reporter.say(
            f"2. Tune it for up to {config.steps} steps; {_told(seconds)} on this machine at "
            f"{each:.2g} s a step, measured" + (", the unpruned model included" if models == 2 else "")
        )
    else:
        reporter.say("2. Tune nothing")
    then = "check and time each file" if order.measure else "check each file"
    reporter.say(f"3. Export {', '.join(order.asked.targets)} in {', '.join(order.asked.precisions)}, {then}")
    reporter.say(f"4. {out / 'bundle'} ships; {out / 'run'} and {out / 'report.html'} say how it was made\n")


def _seconds_a_step(task: Task, start: Start, config: TrainConfig, device: torch.device) -> float:
    """Of the unpruned model's training: the first step warms up, the next are timed."""
    model = backbones.build(start.backbone, start.state, len(task.classes)).to(device)
    images = prepare(_some(task, config.batch_size), start.backbone.preprocessing, device)
    fit(model, images, replace(config, steps=1))
    clock = time.perf_counter()
    fit(model, images, replace(config, steps=TIMED))
    return (time.perf_counter() - clock) / TIMED


def _some(task: Task, count: int) -> Split:
    """Training images drawn at random, ``count`` at most."""
    mask = np.zeros(len(task.train), bool)
    mask[np.random.default_rng(0).permutation(len(mask))[:count]] = True
    return task.train.part(mask)


def _told(seconds: float) -> str:
    return f"about {max(1, round(seconds / 60))} minutes" if seconds > 90 else f"about {seconds:.0f} seconds"
