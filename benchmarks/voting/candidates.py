"""Candidates for the default recipe on the study's nets: what training images say of each, and what comes of it.

    python benchmarks/voting/candidates.py disjoint resnet --data FOLDER --work WORK [--keep 0.3] [--targets 20]

A line a cell in results/candidates-SETTING-NET.jsonl: loo_loss, the leave-one-out cross-entropy of a closed-form head
before tuning; held-out accuracy before tuning and after it. A recipe that takes the candidate of the least loo_loss
can so be judged without running it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from options import Place, study
from prepare import bank, training
from run import append, read, rounded

from mvp_deploy.bank.trial import Trials
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.recipes import RECIPES, Recipe, changed
from mvp_deploy.pruning.tuning import tune_by
from mvp_deploy.training import accuracy

RESULTS = Path(__file__).parent / "results"
VOTED = Recipe()
ARMS: Mapping[str, Recipe] = {
    "old": changed(VOTED, ["judged=false", "norms=recomputed"]),  # the study's default
    "default": RECIPES["default"],
    "voted": VOTED,
    "own": RECIPES["own"],
    "obs": changed(RECIPES["own"], ["criterion=obs"]),
    "obs, tuned as before": changed(RECIPES["own"], ["criterion=obs", "judged=false", "norms=recomputed"]),
    "lent": changed(RECIPES["lent"], ["scope=uniform"]),
    "taylor under one threshold": changed(RECIPES["own"], ["scope=global"]),
    "obs under one threshold": RECIPES["compensated"],
}
KEY = ("keep", "of", "target", "seed", "arm", "steps")


@click.command()
@study
@click.option("--keep", default=0.3, show_default=True)
@click.option("--of", default="units", show_default=True, type=click.Choice(["units", "macs"]))
@click.option("--bank-tasks", default=10, show_default=True, help="Of the setting's twenty.")
@click.option("--targets", "most", default=20, show_default=True)
@click.option("--steps", "numbers", type=int, multiple=True, default=(5, 20, 180), show_default=True)
@click.option("--arm", "arms", multiple=True, type=click.Choice(list(ARMS)), default=tuple(ARMS))
@click.option("--seed", default=0)
def main(
    place: Place,
    keep: float,
    of: str,
    bank_tasks: int,
    most: int,
    numbers: tuple[int, ...],
    arms: tuple[str, ...],
    seed: int,
) -> None:
    chosen = replace(place.setting, bank=place.setting.bank[:bank_tasks])
    file = RESULTS / f"candidates-{chosen.name}-{place.net}.jsonl"
    done = {tuple(cell[name] for name in KEY) for cell in read(file)}
    voters = bank(chosen, place.net, keep, place.work, place.device)
    for data in chosen.targets[:most]:
        missing = [
            key for arm in arms for steps in numbers
            if tuple((key := dict(zip(KEY, (keep, of, data.name, seed, arm, steps), strict=True))).values()) not in done
        ]  # fmt: skip
        if not missing:
            continue
        task = Trials.of(data, voters, place.device)
        begun: dict[str, tuple[torch.nn.Module, dict[str, Any]]] = {}
        for key in missing:
            arm, recipe = key["arm"], ARMS[key["arm"]]
            if arm not in begun:
                made = task.make(recipe, Budget(keep, of), seed)  # type: ignore[arg-type]
                told = {"loo_loss": made.loss, "before": accuracy(made.model, task.test), "way": made.recipe.way}
                begun[arm] = made.model, told | {"model_macs": task.original.cost(made.decision.plan).macs}
            model, told = begun[arm]
            model = copy.deepcopy(model)
            config = training(voters.backbone, chosen, steps=key["steps"], seed=seed)
            tuned = tune_by(recipe, model, task.original.classifier, task.train, config)
            lr = tuned.choice.lr if tuned.choice else None
            after = {"accuracy": accuracy(model, task.test), "kept": tuned.kept, "taken": tuned.steps, "lr": lr}
            append(file, key | rounded(told | after))
        print(f"{chosen.name} {data.name}: {len(missing)} cells", flush=True)


if __name__ == "__main__":
    main()
