"""mvp-deploy bank build: a ladder of models at a few budgets, recovered once for all later tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.bounds import FRACTION
from mvp_deploy.cli._common import Console, common_options, resumes
from mvp_deploy.cli._options import options
from mvp_deploy.cli._types import PATH, Listed, Number
from mvp_deploy.pruning.config import IMITATION, LADDER, Budget
from mvp_deploy.training.config import Training

if TYPE_CHECKING:
    from mvp_deploy.bank.rung import Rung


@click.command()
@click.argument("folder", metavar="BANK", type=PATH)
@click.argument("tasks", metavar="[TASK...]", nargs=-1)
@click.option("--macs", "fractions", default=",".join(map(str, LADDER)), show_default=True,
              type=Listed(Number(FRACTION)),
              help="Fractions of multiply-accumulates, one model each.")  # fmt: skip
@click.option("--images", multiple=True, metavar="FOLDER", type=PATH,
              help="Photographs without labels, in any folders below it.")  # fmt: skip
@options("training", IMITATION, "steps", "batch_size")
@options("budget", Budget(), "round_to")
@click.option("--no-flip", is_flag=True, help="Do not mirror images (for digits and letters).")
@common_options
@resumes
def build(
    folder: Path,
    tasks: tuple[str, ...],
    fractions: tuple[float, ...],
    images: tuple[Path, ...],
    training: Training,
    budget: Budget,
    no_flip: bool,
    device: str,
    seed: int,
    console: Console,
) -> None:
    """Make the ladder of BANK: cut, re-solved, and taught the unpruned features on the images of all its tasks.

    TASKs are labelled images besides those of the bank's own. Labels say what units are worth; photographs without
    them (--images) join for the rest.

    Done once, it serves every later task of these budgets, which then only solves its head: `prune --macs` takes the
    model of its budget by itself. Killed and called again, it goes on where it stopped.

    \b
    Example:
      mvp-deploy bank build BANK --macs 0.6,0.4
      mvp-deploy bank build BANK --macs 0.6,0.4 --images ~/photos
    """
    from dataclasses import replace

    from mvp_deploy.bank import ladder
    from mvp_deploy.bank.pool import pool, tasks_of
    from mvp_deploy.bank.rung import asked
    from mvp_deploy.bank.store import Bank
    from mvp_deploy.base.devices import resolve
    from mvp_deploy.pruning.imitation import TUNING

    if not fractions:
        raise click.BadParameter("write fractions above 0 and at most 1, as 0.6,0.4.", param_hint="--macs")
    budgets = [replace(budget, fraction=fraction) for fraction in fractions]
    place, bank = resolve(device), Bank.open(folder)
    pooled = pool(tasks_of(bank, tasks, console), images, bank.backbone.preprocessing, place, reporter=console)
    config = replace(TUNING, steps=training.steps, batch_size=training.batch_size, flip=not no_flip, seed=seed)
    made = ladder.build(bank, pooled, budgets, config, reporter=console)
    show(made, console)
    console.next(f"prune TASK --bank {folder} {asked(made[0].budget)} --out RUN")
    console.result([rung.to_json() for rung in made])


def show(ladder: Sequence[Rung], console: Console) -> None:
    """What each model gives beside what it cost."""
    from mvp_deploy.bank.rung import multiples

    console.table(
        ("budget", "MACs", "parameters", "off when cut", "re-solved", "imitated", "minutes"),
        [
            (
                f"{rung.budget.fraction:.0%}{multiples(rung.budget, ' by ')}",
                f"{rung.macs:,}",
                f"{rung.params:,}",
                *(f"{rung.errors[step]:.3f}" for step in ("cut", "re-solved", "imitated")),
                f"{rung.seconds / 60:.1f}",
            )
            for rung in ladder
        ],
    )
    console.show("off: squared difference of the features from the unpruned ones, relative to their variance")
    if any(multiples(rung.budget, "by") for rung in ladder):
        console.show("by N: channels and hidden units stay in multiples of N (--round-to)")
