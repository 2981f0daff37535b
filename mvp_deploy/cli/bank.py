"""mvp-deploy bank: start a bank, add tasks to it, look into it, check it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.errors import InputError, MvpError, error_of
from mvp_deploy.cli._bank_build import build
from mvp_deploy.cli._bank_build import show as show_ladder
from mvp_deploy.cli._bank_evaluate import evaluate
from mvp_deploy.cli._cluster import cluster_options
from mvp_deploy.cli._common import Console, common_options, output_options, resumes
from mvp_deploy.cli._latency import Timed, latency_options
from mvp_deploy.cli._options import budget_options, name_option, options
from mvp_deploy.cli._types import PATH, SEEDS
from mvp_deploy.cli._weights import Weights, weights_options
from mvp_deploy.pruning.config import Budget, Schedule
from mvp_deploy.training.config import Training

if TYPE_CHECKING:
    from mvp_deploy.bank.entry import Entry
    from mvp_deploy.base.cluster import Cluster


@click.group(name="bank")
def command() -> None:
    """The store of tasks already pruned, whose votes decide for new ones."""


command.add_command(evaluate)
command.add_command(build)


@command.command()
@click.argument("folder", metavar="BANK", type=PATH)
@click.option("--backbone", "name", required=True, help="A timm model, for example resnet18, or a published one: "
              "hf-hub:OWNER/NAME, local-dir:FOLDER.")  # fmt: skip
@weights_options()
@click.option("--seed", default=0, show_default=True, type=SEEDS, help="Of random weights, if no others are given.")
@click.option("--allow-inexact", is_flag=True, help="Let `bank add` and `prune` also remove units that an operator "
              "mixes with others (GRN, ECA, spatial gates), and report the error.")  # fmt: skip
@click.option("--rotate", metavar="TASK", help="Turn linear streams (MobileNets, EfficientNets, transformers) into "
              "their principal directions on this task's images: the same function, cheaper to prune.")  # fmt: skip
@output_options
def init(
    folder: Path,
    name: str,
    weights: Weights,
    seed: int,
    allow_inexact: bool,
    rotate: str | None,
    console: Console,
) -> None:
    """Start an empty bank for one backbone.

    \b
    Example:
      mvp-deploy bank init BANK --backbone resnet18 --weights resnet18.safetensors --image-size 32
      mvp-deploy bank init BANK --backbone mobilenetv2_100 --pretrained --image-size 128 --rotate data/birds
    """
    from mvp_deploy.bank.start import start
    from mvp_deploy.tasks import load_task

    backbone, state = weights.backbone(name, seed, console)
    backbone = replace(backbone, allow_inexact=allow_inexact)
    turn_by = None if rotate is None else load_task(rotate)
    made = start(folder, backbone, state, turn_by, seed=seed, reporter=console).backbone
    console.show(f"{folder}: an empty bank for {made.name} ({made.weights})")
    console.next(_next(folder, tasks=False))
    console.result({"bank": str(folder), "backbone": made.to_json(), "fingerprint": made.fingerprint})


@command.command()
@click.argument("folder", metavar="BANK", type=PATH)
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True)
@budget_options
@name_option
@latency_options
@options("schedule", Schedule(), steps="--round-steps")
@options("training", Training())
@click.option("--replace", is_flag=True, help="Prune again tasks that the bank already has.")
@click.option("--skip-bad", is_flag=True, help="Leave out unreadable images, counting them.")
@cluster_options
@common_options
@resumes
def add(
    folder: Path,
    tasks: tuple[str, ...],
    title: str | None,
    budget: Budget,
    timed: Timed | None,
    schedule: Schedule,
    training: Training,
    replace: bool,
    skip_bad: bool,
    cluster: Cluster | None,
    device: str,
    seed: int,
    console: Console,
) -> None:
    """Prune tasks the long way (train, then cut and fine-tune in rounds) and store them.

    A task that fails does not stop the others; the exit code then is its own. Killed and called again, it goes on.
    A time is met by the profile's prediction alone: nothing is timed after the cuts.
    With --ray, tasks are pruned at once on a Ray cluster whose machines share the folders of bank and data.

    \b
    Example:
      mvp-deploy bank add BANK digits#0,1,2 digits#3,4,5 --macs 0.5
      mvp-deploy bank add BANK digits#0,1,2 --speed-up 2x --on board.json
    """
    from mvp_deploy.bank.many import Additions
    from mvp_deploy.bank.store import Bank
    from mvp_deploy.base.devices import resolve
    from mvp_deploy.pruning.iterative import LongWay
    from mvp_deploy.pruning.original import suited

    if title is not None and len(tasks) > 1:
        raise InputError(f"--name names one task, and {len(tasks)} were given: add them one by one.")
    if cluster is None:
        resolve(device)  # what cannot be is said before any task is begun; on a cluster, by its machines
    backbone, cost = Bank.open(folder).backbone, None
    if timed:
        budget, cost = timed.share(backbone, budget.round_to, folder, console)
    additions = Additions(
        bank=folder,
        how=LongWay(budget, schedule, suited(backbone, training, seed)),
        device=device,
        replace=replace,
        skip_bad=skip_bad,
        name=title,
        cost=cost,
    )
    added, failed = [], []
    for spec, found in additions.add_all(tasks, cluster, console):
        if isinstance(found, MvpError):
            console.warn(f"{spec} was not added: {found}")
            failed.append((spec, found))
        else:
            added.append(found)
    if added:
        console.table(COLUMNS, [_row(entry) for entry in added])
    console.result(
        {
            "added": [_told(entry) for entry in added],
            "failed": [{"task": spec, "error": str(error)} for spec, error in failed],
        }
    )
    if added:
        console.next(_next(folder))
    if failed:
        names = ", ".join(spec for spec, _ in failed)
        raise error_of(f"{len(failed)} of {len(tasks)} tasks were not added: {names}. See above.", failed[0][1].code)


@command.command(name="list")
@click.argument("folder", metavar="BANK", type=PATH)
@output_options
def list_tasks(folder: Path, console: Console) -> None:
    """The bank's tasks and its ladder, from their headers alone.

    \b
    Example:
      mvp-deploy bank list BANK
    """
    from mvp_deploy.bank.rung import rungs
    from mvp_deploy.bank.store import Bank

    damaged: list[str] = []
    bank = Bank.open(folder)
    entries, ladder = list(bank.entries(damaged)), list(rungs(bank, damaged))
    if entries:
        console.table(COLUMNS, [_row(entry) for entry in entries])
    console.show(f"{len(entries)} tasks")
    if ladder:
        console.show("\nIts ladder:")
        show_ladder(ladder, console)
    elif entries:
        console.show(
            f"It has no ladder yet: `mvp-deploy bank build {folder}` makes models at a few budgets, recovered once for "
            "all later tasks."
        )
    console.next(_next(folder, bool(entries)))
    told = {"tasks": [_told(entry) for entry in entries], "ladder": [rung.to_json() for rung in ladder]}
    console.result(told | {"damaged": damaged})
    if damaged:
        raise MvpError("\n".join(damaged))


@command.command()
@click.argument("folder", metavar="BANK", type=PATH)
@click.argument("task", required=False)
@output_options
def show(folder: Path, task: str | None, console: Console) -> None:
    """One task of the bank with its rounds and what it kept per group; without TASK, the bank's backbone.

    \b
    Example:
      mvp-deploy bank show BANK digits#0,1,2
    """
    from mvp_deploy.bank.store import Bank

    bank = Bank.open(folder)
    if task is None:
        pixels = bank.backbone.preprocessing.input_size[1]
        console.show(f"{folder}: {bank.backbone.name} at {pixels} pixels, weights: {bank.backbone.weights}")
        console.result({"backbone": bank.backbone.to_json(), "fingerprint": bank.backbone.fingerprint})
        console.next(f"bank list {folder}")
        return
    entry = bank.entry(task)
    console.table(COLUMNS, [_row(entry)])
    console.show("")
    rows = [
        (
            f"{r['fraction']:.2f}",
            f"{r['units']:.1%}",
            f"{r['accuracy_cut']:.1%}",
            f"{r['accuracy']:.1%}",
            r["steps"],
        )
        for r in entry.details["rounds"]
    ]
    console.table(("round aims at", "units", "accuracy after cut", "after tuning", "steps"), rows)
    console.show("")
    masks = entry.plan.masks
    console.table(("group", "kept", "of"), [(name, int(mask.sum()), len(mask)) for name, mask in masks.items()])
    console.result(
        {
            **_told(entry),
            "classes": list(entry.classes),
            "details": dict(entry.details),
            "kept": {name: [int(mask.sum()), len(mask)] for name, mask in masks.items()},
        }
    )
    console.next(_next(folder))


@command.command()
@click.argument("folder", metavar="BANK", type=PATH)
@output_options
def verify(folder: Path, console: Console) -> None:
    """Check every checksum and fingerprint of the bank; exit code 1 if anything is wrong.

    \b
    Example:
      mvp-deploy bank verify BANK
    """
    from mvp_deploy.bank.store import Bank

    with console.progress("verify") as step:
        problems = Bank.open(folder).verify(step)
    console.result({"bank": str(folder), "problems": problems})
    if problems:
        raise MvpError("\n".join(problems))
    console.show(f"{folder}: everything is as it was written")
    console.next(_next(folder))


def _next(bank: Path, tasks: bool = True) -> str:
    """A bank with tasks helps a new one; an empty bank needs some."""
    return f"prune NEW_DATA --bank {bank} --out RUN" if tasks else f"bank add {bank} DATA"


COLUMNS = ("task", "accuracy", "unpruned", "units", "params", "MACs", "steps", "minutes")


def _told(entry: Entry) -> dict[str, object]:
    return {"task": entry.name, "metrics": dict(entry.metrics), "cost": dict(entry.cost)}


def _row(entry: Entry) -> tuple[str, ...]:
    metrics, cost = entry.metrics, entry.cost
    return (
        entry.name,
        f"{metrics['accuracy']:.1%}",
        f"{metrics['unpruned_accuracy']:.1%}",
        f"{metrics['units']:.1%}",
        f"{metrics['params'] / metrics['unpruned_params']:.1%}",
        f"{metrics['macs'] / metrics['unpruned_macs']:.1%}",
        f"{cost['steps']:.0f}",
        f"{cost['seconds'] / 60:.1f}",
    )
