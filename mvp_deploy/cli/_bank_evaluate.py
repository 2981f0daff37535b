"""`bank evaluate`: does voting help on this bank?"""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.base.bounds import REPEATS, SEED, STEPS
from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._common import Console, common_options
from mvp_deploy.cli._types import PATH, Number
from mvp_deploy.pruning.recipes import RECIPES


@click.command("evaluate")
@click.argument("folder", metavar="BANK", type=PATH)
@click.argument("tasks", nargs=-1)
@click.option(
    "--recipe", default="default", show_default=True, type=click.Choice([*RECIPES]), help="The voting recipe to try."
)
@click.option("--steps", default=60, show_default=True, type=Number(STEPS), help="Fine-tuning steps.")
@click.option("--repeats", default=1, show_default=True, type=Number(REPEATS), help="Seeds per task.")
@common_options
def evaluate(
    folder: Path, tasks: tuple[str, ...], recipe: str, steps: int, repeats: int, device: str, seed: int,
    console: Console,
) -> None:  # fmt: skip
    """Leave every task (or TASKS) out in turn, to see whether voting helps.

    Says whether the nearest tasks count, how many should vote, and how many steps voting saves. How much own importance
    should count beside what neighbours lend is kept in the bank, and `prune` goes by it.

    \b
    Example:
      mvp-deploy bank evaluate BANK --steps 60
    """
    from mvp_deploy.bank import balance
    from mvp_deploy.bank.evaluate import evaluate as leave_out
    from mvp_deploy.bank.store import Bank
    from mvp_deploy.base import devices

    if wrong := SEED(seed + repeats - 1):
        raise InputError(f"The last seed, --seed plus --repeats, is {seed + repeats - 1}: {wrong}.")
    bank = Bank.open(folder)
    verdict = leave_out(
        bank,
        tasks,
        steps,
        range(seed, seed + repeats),
        recipe=recipe,
        device=devices.resolve(device),
        reporter=console,
    )
    rows = [(arm, f"{value:.1%}") for arm, value in verdict.accuracy.items()]
    console.table(("arm", "accuracy"), rows)
    console.show(f"\n{verdict.sentence}")
    console.result(verdict.to_json())
    if verdict.even is not None:
        console.show(f"Kept in the bank: {balance.store(bank, verdict.even, verdict.tasks).sentence}.")
    asked = " ".join([f"--recipe {verdict.recipe}", *(f"--set {setting}" for setting in verdict.settings)])
    console.next(f"prune NEW_DATA --bank {folder} {asked} --out RUN")
