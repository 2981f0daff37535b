"""The whole job on embedded images, by the same functions as the real commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from mvp_deploy import backbones, runs
from mvp_deploy.bank.add import add_task
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.export.config import Exports
from mvp_deploy.export.pack import Order
from mvp_deploy.pipeline.shrink import deliver
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import LongWay, Schedule
from mvp_deploy.pruning.recipes import recipe_named
from mvp_deploy.report.task import summary, table
from mvp_deploy.tasks import load_task, prepare
from mvp_deploy.training import TrainConfig, fit

BACKBONE, IMAGE_SIZE = "resnet18", 32
PRETEXT = "digits#0,1,2,3,4,5"  # what the backbone learns before any task
BANK = ("digits#0,1,6", "digits#2,3,7", "digits#4,5,8", "digits#1,7,9", "digits#0,6,8", "digits#2,5,9")
TARGET = "digits#3,5,8,9"  # no task of the bank tells these apart
BUDGET = Budget(0.3, "units")
SCHEDULE = Schedule(rounds=3, steps=15)
BATCHES = (1, 32)


@dataclass(frozen=True)
class Demo:
    """What the demo leaves behind."""

    bank: Path
    run: Path
    bundle: Path
    report: Path
    summary: str
    rows: list[tuple[str, ...]]  # under report.task.COLUMNS
    info: dict[str, Any]  # run.json


def run_demo(out: Path, *, device: torch.device, seed: int, reporter: Reporter) -> Demo:
    """Train a backbone, fill a bank, prune a new task by votes, export, time, report. Goes on where it was killed.

    Raises:
        MvpError: (INPUT) the folder holds something else than a demo.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "bank").exists():
        raise InputError(f"{out} holds something else than a demo: name a new or empty folder with --out.")
    bank = _bank(out / "bank", device, seed, reporter)
    for number, spec in enumerate(BANK, 1):
        if spec in {entry.name for entry in bank.entries([])}:
            continue
        reporter.say(f"\nBank, task {number} of {len(BANK)}: {spec}, pruned the long way")
        how = LongWay(BUDGET, SCHEDULE, _training(30, seed))
        add_task(bank, load_task(spec), how, device=device, reporter=reporter)
    reporter.say(f"\nNew task: {TARGET}, by its nearest tasks' votes or its own importance")
    new = load_task(TARGET)
    run = runs.prune_task(
        new,
        bank,
        out / "run",
        runs.Pruning(BUDGET, recipe_named("default"), _training(60, seed)),
        device=device,
        reporter=reporter,
    )
    bundle, measurements = deliver(run, new, out, Order.of(Exports(), reporter, measure=BATCHES), device, reporter)
    rows = measurements["rows"] if measurements else []
    return Demo(
        bank.folder,
        run.folder,
        bundle.path,
        out / "report.html",
        summary(run.info, rows),
        table(run.info, rows),
        run.info,
    )


def _bank(folder: Path, device: torch.device, seed: int, reporter: Reporter) -> Bank:
    """An empty bank for a backbone that has learned to tell a few digits apart."""
    if (folder / "bank.json").exists():
        return Bank.open(folder)
    reporter.say(f"Backbone: {BACKBONE} at {IMAGE_SIZE} pixels, trained on {PRETEXT}")
    fresh, state = backbones.create(BACKBONE, image_size=IMAGE_SIZE, seed=seed)
    task = load_task(PRETEXT)
    model = backbones.build(fresh, state, len(task.classes), seed=seed)
    train = prepare(task.train, fresh.preprocessing, device)
    with reporter.progress("backbone") as step:
        fit(model, train, _training(120, seed), progress=step)
    with TemporaryDirectory() as temporary:
        weights = Path(temporary, "backbone.safetensors")
        save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, weights)
        return Bank.init(folder, *backbones.create(BACKBONE, weights=weights, image_size=IMAGE_SIZE))


def _training(steps: int, seed: int) -> TrainConfig:
    return TrainConfig(steps=steps, batch_size=32, lr=0.02, seed=seed)
