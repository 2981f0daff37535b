"""mvp-deploy shrink: from a model and one's images to a checked, measured bundle, in one command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.folders import refuse_inside
from mvp_deploy.benchmark.config import Timed as Measure
from mvp_deploy.cli._common import Console, common_options, resumes
from mvp_deploy.cli._latency import Timed, latency_options
from mvp_deploy.cli._options import budget_options, name_option, options
from mvp_deploy.cli._types import PATH
from mvp_deploy.cli._weights import Weights, weights_options
from mvp_deploy.export.config import Exports
from mvp_deploy.pruning.config import Budget
from mvp_deploy.training.config import Training

if TYPE_CHECKING:
    from mvp_deploy.pipeline.shrink import Start
    from mvp_deploy.tasks import Task


@click.command()
@click.argument("data")
@click.option("--model", "name", help="A timm model (resnet18), a published one (hf-hub:OWNER/NAME, local-dir:FOLDER), "
              "or the file of your checkpoint, if that says its architecture, as timm's do. With --latency several "
              "timm models, as resnet18,resnet34: the most accurate within the time is taken.")  # fmt: skip
@click.option("--checkpoint", type=PATH, help="Your trained model's .pth or .safetensors; its head stays.")
@click.option("--classes", metavar="NAME,NAME,…", help="The checkpoint's classes in the order of its outputs.  "
              "[default: the data's order, which is checked]")  # fmt: skip
@click.option("--bank", type=PATH, help="In --model's place: shrink this bank's backbone; its tasks vote.")
@weights_options("--model")
@name_option
@click.option("--out", required=True, type=PATH, help="Where the bundle, the run and the report go.")
@budget_options
@latency_options
@click.option("--train", type=click.Choice(["none", "short", "full"]), default="short", show_default=True,
              help="How long to tune what was cut: not at all, 100 steps, or 20 epochs.")  # fmt: skip
@options("training", Training(), "batch_size", "flip")
@options("asked", Exports(), "targets", "precisions", targets="--target", precisions="--precision")
@options("measure", Measure(), "batches", batches="--measure")
@click.option("--skip-bad", is_flag=True, help="Leave out unreadable images, counting them.")
@common_options
@resumes
def command(
    data: str,
    name: str | None,
    title: str | None,
    checkpoint: Path | None,
    bank: Path | None,
    classes: str | None,
    weights: Weights,
    out: Path,
    budget: Budget,
    timed: Timed | None,
    train: str,
    training: Training,
    asked: Exports,
    measure: Measure,
    skip_bad: bool,
    device: str,
    seed: int,
    console: Console,
) -> None:
    """Make a model small and fast for the images in DATA, export it, check it, time it and pack it.

    DATA is a folder of classes, an .npz file, or SOURCE#class,class. No bank is needed; --bank uses one. Your own
    checkpoint keeps its trained head, and its accuracy is what the small model is compared with. Killed or interrupted
    and called again, the command goes on where it stopped.

    \b
    Examples:
      mvp-deploy shrink photos --model last.pth.tar --macs 0.5 --out small
      mvp-deploy shrink photos --model last.pth.tar --speed-up 2x --out small
      mvp-deploy shrink photos --model resnet18,resnet34 --pretrained --latency 4ms --out small
      mvp-deploy shrink photos --model resnet18 --pretrained --macs 0.4 --target openvino --precision int8 --out small
    """
    from mvp_deploy.base.devices import resolve
    from mvp_deploy.export.pack import failure
    from mvp_deploy.pipeline.shrink import shrink, steps_of
    from mvp_deploy.pruning.original import suited
    from mvp_deploy.pruning.recipes import recipe_named
    from mvp_deploy.runs import Pruning
    from mvp_deploy.tasks import load_task
    from mvp_deploy.tasks.task import place_of

    place = resolve(device)
    refuse_inside(out, place_of(data))
    task = load_task(data, skip_bad=skip_bad).named(title)
    named = tuple(classes.split(",")) if classes else ()
    searched = None
    if timed is not None and name is not None and "," in name and not Path(name.removeprefix("local-dir:")).exists():
        if checkpoint or bank or classes or not weights.pretrained or timed.on:
            raise InputError(
                "Several models are taken with --pretrained and --latency, without --checkpoint, --classes, --bank and "
                "--on: for weights or profiles of your own call `mvp-deploy frontier`."
            )
        from mvp_deploy.pipeline.several import best_of

        names = list(dict.fromkeys(name.split(",")))
        searched = best_of(
            names, weights.image_size, task, timed.target, asked, out / "frontier", seed=seed, reporter=console
        )
        name, weights = searched.best.backbone, replace(weights, image_size=searched.best.image_size)
    start = _start(task, name, checkpoint, bank, weights, named, seed, console)
    steps = steps_of(train, len(task.train), training.batch_size)
    config = suited(start.backbone, replace(training, steps=steps), seed)
    how = Pruning(budget, recipe_named("default"), config)
    made = shrink(
        task, start, out, how, asked, measure.batches, timed=timed, searched=searched, device=place, reporter=console
    )
    if searched is not None:
        console.show(f"{searched.verdict}\n")
    for line in made.outcome.lines:
        console.show(line)
    console.show(f"bundle    {made.bundle.path}\nreport    {made.report}")
    there = timed.on if timed is not None and isinstance(timed.on, str) else None
    ships = made.outcome.after
    which = "" if ships.precision == "fp32" else f" --target {ships.target} --precision {ships.precision}"
    console.next(f"bench {made.bundle.path} --on {there}" if there else f"predict {made.bundle.path} PHOTO{which}")
    console.result(
        {
            "run": str(made.run),
            "bundle": str(made.bundle.path),
            "report": str(made.report),
            "outcome": made.outcome.to_json(),
            "verdict": searched.verdict if searched else None,
        }
    )
    if error := failure(made.bundle):
        raise error


def _start(
    task: Task,
    name: str | None,
    checkpoint: Path | None,
    bank: Path | None,
    weights: Weights,
    classes: tuple[str, ...],
    seed: int,
    console: Console,
) -> Start:
    """The one model that was asked for."""
    from mvp_deploy.backbones.weights import ENDINGS
    from mvp_deploy.pipeline.shrink import Start, from_checkpoint

    if bank is not None:
        if name is not None or checkpoint is not None or weights != Weights() or classes:
            raise InputError("--bank has its own backbone: leave out --model, --checkpoint, --classes and weights.")
        from mvp_deploy.bank.store import Bank

        opened = Bank.open(bank)
        return Start(opened.backbone, opened.state(), trained=False, bank=opened)
    if name is not None and checkpoint is None and (Path(name).is_file() or Path(name).suffix in ENDINGS):
        checkpoint, name = Path(name), None
    if checkpoint is not None:
        if not weights.random:
            raise InputError("A checkpoint has its own weights: leave out --pretrained and --weights.")
        size = weights.image_size
        return from_checkpoint(checkpoint, name, task, classes=classes, image_size=size, reporter=console)
    if name is None:
        raise InputError(
            "Name the model to shrink: --model NAME, --checkpoint FILE for one of your own, or --bank BANK."
        )
    if classes:
        raise InputError("--classes belongs to a --checkpoint: a new head has the data's classes.")
    if weights.random and ":" not in name:  # what is published has its weights
        raise InputError(
            f"{name} without weights is random: add --pretrained, --checkpoint FILE (trained for these classes) or "
            "--weights FILE (a backbone)."
        )
    return Start(*weights.backbone(name, seed, console), trained=False)
