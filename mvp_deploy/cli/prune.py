"""mvp-deploy prune: a new task's small model from its neighbours' votes."""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.base.bounds import NEIGHBOURS
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.folders import refuse_inside
from mvp_deploy.cli._common import Console, common_options, resumes
from mvp_deploy.cli._latency import Timed, latency_options
from mvp_deploy.cli._options import budget_options, name_option, options
from mvp_deploy.cli._types import PATH, Number
from mvp_deploy.cli._weights import Weights, weights_options
from mvp_deploy.pruning.config import Budget
from mvp_deploy.pruning.recipes import RECIPES, recipe_named
from mvp_deploy.training.config import Training


@click.command(name="prune")
@click.argument("task")
@click.option("--bank", "bank_folder", type=PATH, help="The bank whose tasks vote; without one give --backbone.")
@click.option("--backbone", "name", help="Without a bank: the model to prune by the task's own images: timm's, "
              "hf-hub:OWNER/NAME or local-dir:FOLDER.")  # fmt: skip
@weights_options("--backbone")
@name_option
@click.option("--out", required=True, type=PATH, help="The RUN folder to write.")
@budget_options
@latency_options
@click.option("--recipe", default="default", show_default=True, type=click.Choice([*RECIPES]),
              help="How neighbours vote.")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change one field of the recipe.")
@click.option(
    "--neighbours", type=Number(NEIGHBOURS), help="How many tasks vote (0: all); the recipe's own number by default."
)
@options("training", Training())
@click.option("--skip-bad", is_flag=True, help="Leave out unreadable images, counting them.")
@common_options
@resumes
def command(
    task: str,
    bank_folder: Path | None,
    name: str | None,
    title: str | None,
    weights: Weights,
    out: Path,
    budget: Budget,
    timed: Timed | None,
    recipe: str,
    changes: tuple[str, ...],
    neighbours: int | None,
    training: Training,
    skip_bad: bool,
    device: str,
    seed: int,
    console: Console,
) -> None:
    """Prune the bank's backbone for TASK by Meta-Vote Pruning, beside the unpruned model, tuned the same way.

    Without a bank, prune --backbone by the task's own images: its linear streams are first turned into their principal
    directions, which changes no output. Killed and called again, it goes on where it stopped.

    \b
    Example:
      mvp-deploy prune digits#7,8,9 --bank BANK --macs 0.5 --out RUN
      mvp-deploy prune PHOTOS --backbone mobilenetv2_100 --pretrained --macs 0.6 --out RUN
      mvp-deploy prune digits#7,8,9 --bank BANK --speed-up 2x --on board.json --out RUN
    """
    from mvp_deploy import runs
    from mvp_deploy.bank.alone import alone
    from mvp_deploy.bank.store import Bank
    from mvp_deploy.base.devices import resolve
    from mvp_deploy.pruning.original import suited
    from mvp_deploy.tasks import load_task
    from mvp_deploy.tasks.task import place_of

    asked = [*changes, *([] if neighbours is None else [f"neighbours={neighbours}"])]
    voting = recipe_named(recipe, asked)
    place = resolve(device)
    refuse_inside(out, place_of(task))
    given = load_task(task, skip_bad=skip_bad).named(title)
    images = f"{len(given.train):,} training and {len(given.test):,} held-out images"
    console.say(f"{given.name}: {images} of {len(given.classes)} classes")
    if bank_folder is not None:
        if name is not None or weights != Weights():
            raise InputError(
                "--bank has its own backbone: leave out --backbone, --pretrained, --weights, --image-size."
            )
        bank: Bank = Bank.open(bank_folder)
    elif name is not None:
        bank = alone(given, *weights.backbone(name, seed, console), seed=seed)
    else:
        raise InputError("Name the --bank to ask, or the --backbone to prune without one.")
    meet = None
    if timed is not None:
        budget, meet = timed.meeting(bank.backbone, budget.round_to, out, console)
    how = runs.Pruning(budget, voting, suited(bank.backbone, training, seed), meet)
    run = runs.prune_task(given, bank, out, how, device=place, reporter=console)
    metrics = run.info["metrics"]
    rows = [
        (
            name,
            f"{m['accuracy']:.1%}",
            f"{m['units']:.1%}",
            f"{m['params']:,}",
            f"{m['macs']:,}",
            m["steps"],
            f"{m['seconds']:.1f}",
        )
        for name, m in ((name, metrics[name]) for name in ("unpruned", "pruned"))
    ]
    console.table(("model", "accuracy", "units", "params", "MACs", "steps", "seconds"), rows)
    if latency := metrics["pruned"]["making"].get("latency"):
        from mvp_deploy.latency.meet import Met

        console.show(f"\n{latency['target']} asked for: {Met(**latency)}")
    voters = run.info["votes"]["voters"]
    if voters:
        console.show("")
        console.table(
            ("voter", run.info["votes"].get("measure", "similarity"), "weight"),
            [(v["task"], f"{v['similarity']:.3f}", f"{v['weight']:.2f}") for v in voters],
        )
        console.show("")
        console.table(
            ("group", "kept", "of", "unanimity"),
            [(g["name"], g["kept"], g["size"], f"{g['unanimity']:.0%}") for g in run.info["groups"]],
        )
        console.show(
            "A unit is a channel, an attention head or a hidden neuron of an MLP; a group's stay or go together. "
            "Unanimity: how far the voters agreed on a group's units."
        )
    console.next(f"export {out} --out BUNDLE")
    console.result(run.info)
