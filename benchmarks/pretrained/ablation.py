"""What each part of pruning without a bank is worth: the whole way, and the way without each part.

    python benchmarks/pretrained/ablation.py lite0 96 0.4 --seeds 3 --tar caltech101_160.tar --work WORK

The whole way: obs under one threshold in three rounds, in rotated streams, layers re-solved, head in closed form; all
100 classes; then `STEPS` steps of tuning (`front.TUNED`), alike for all, and the head solved again. Each seed deals all
photographs anew into those to train with and held-out ones, of each class as many as before. A line a cell in
results/ablation.jsonl; cells that are there are not run again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from front import CLASSES, RESULTS, TUNED
from ladder import read
from prepare import Photographs, backbone, photographs

from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.making import make
from mvp_deploy.pruning.mvp import importances
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import RECIPES, Recipe, changed
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.tasks import Images
from mvp_deploy.training import accuracy, fit

FILE = RESULTS / "ablation.jsonl"
STEPS = 100
WHOLE = changed(RECIPES["compensated"], ["rounds=3"])
PLAIN = "without rotated streams"
ARMS: dict[str, Recipe] = {
    "the whole way": WHOLE,
    PLAIN: WHOLE,
    "Taylor in place of obs": changed(WHOLE, ["criterion=taylor"]),
    "the same share of every group": changed(WHOLE, ["scope=uniform"]),
    "in one round": changed(WHOLE, ["rounds=1"]),
    "nothing re-solved": changed(WHOLE, ["reconstruct=false"]),
    "as it once was": changed(RECIPES["own"], ["reconstruct=false", "norms=recomputed"]),  # Taylor, plain streams
}
PLAIN_TOO = (PLAIN, "as it once was")


def dealt(parts: tuple[Images, Images], seed: int) -> tuple[Images, Images]:
    """All photographs, dealt anew into as many to train with and held-out ones of each class; 0: as they were."""
    if not seed:
        return parts
    pixels = torch.cat([part.pixels for part in parts])
    labels = torch.cat([part.labels for part in parts])
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for k, many in enumerate(np.bincount(parts[0].labels.numpy(), minlength=CLASSES)):
        chosen[random.permutation(np.flatnonzero(labels.numpy() == k))[:many]] = True
    whose = torch.from_numpy(chosen)
    return tuple(replace(parts[0], pixels=pixels[w], labels=labels[w]) for w in (whose, ~whose))  # type: ignore[return-value]


def cell(original: Original, arm: str, macs: float, train: Images, test: Images, scores: Any, seed: int) -> Any:
    made = make(original, train, (), ARMS[arm], Budget(macs, "macs"), importance=scores, seed=seed)
    found = {"mmacs": original.cost(made.decision.plan).macs / 1e6, "loo_loss": made.loss}
    found["untuned"] = accuracy(made.model, test)
    fit(made.model, train, replace(TUNED, steps=STEPS, seed=seed))
    solve_head(made.model, original.classifier, train)
    return found | {"tuned": accuracy(made.model, test)}


@click.command()
@click.argument("net")
@click.argument("size", type=int)
@click.argument("macs", type=float)
@click.option("--seeds", default=3, show_default=True)
@click.option("--arm", "arms", multiple=True, type=click.Choice(list(ARMS)), default=list(ARMS))
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(net: str, size: int, macs: float, seeds: int, arms: Sequence[str], tar: Path, work: Path) -> None:
    start, state = backbone(net, size, work)
    shown = Photographs(photographs(tar, work), start, work)
    write_text(RESULTS / "ablation-environment.json", json.dumps(environment(), indent=1) + "\n")
    for seed in range(seeds):
        train, test = dealt(shown.of(list(range(CLASSES))), seed)
        sets = {"net": net, "size": size, "macs": macs, "seed": seed}

        @cache
        def prepared(plain: bool, seed: int = seed, train: Images = train) -> tuple[Original, Any]:
            original = Original.create(*((start, state) if plain else rotate(start, state, train, seed=seed)), CLASSES)
            return original, importances(original, train, seed=seed)

        for arm in arms:
            wanted = sets | {"arm": arm}
            if any(wanted.items() <= old.items() for old in read(FILE)):
                continue
            original, scores = prepared(arm in PLAIN_TOO)
            found = {
                name: round(value, 4) if value is not None else None
                for name, value in cell(original, arm, macs, train, test, scores, seed).items()
            }
            with FILE.open("a", encoding="utf-8") as out:
                out.write(json.dumps(wanted | found) + "\n")
            print(wanted | found, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
