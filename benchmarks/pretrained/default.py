"""What the default should do without a bank: candidates on really pretrained weights, untuned and tuned.

    python benchmarks/pretrained/default.py lite2 128 --classes 12 --macs 0.45 --tar caltech101_160.tar --work WORK

A line a cell in results/default.jsonl: of the model after the cut, the re-solving and a head in closed form, its
leave-one-out cross-entropy on the training photographs and its accuracy on held-out ones; then its accuracy after
tuning as `prune` does it. Cells that are there are not run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ladder import read
from prepare import Photographs, backbone, photographs
from torch import nn

from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.making import make
from mvp_deploy.pruning.mvp import own_importance
from mvp_deploy.pruning.original import Original, suited
from mvp_deploy.pruning.recipes import RECIPES, Recipe, changed
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.pruning.tuning import MadeOf, tune_by
from mvp_deploy.pruning.yardstick import Yardstick
from mvp_deploy.tasks import Images
from mvp_deploy.training import accuracy

RESULTS = Path(__file__).parent / "results"
ARMS = {
    "before": changed(RECIPES["own"], ["reconstruct=false", "norms=recomputed", "judged=false"]),  # as it was once
    "own": RECIPES["own"],
    "taylor": changed(RECIPES["own"], ["scope=global"]),
    "obs": RECIPES["compensated"],
    "default": RECIPES["default"],  # whichever way the training photographs favour
}
UNPRUNED = "unpruned"


@dataclass
class Bench:
    """A backbone on one task; what arms share is worked out once."""

    original: Original
    train: Images
    test: Images
    steps: int
    known: dict[str, Scores] = field(default_factory=dict)

    def cell(self, arm: str, fraction: float) -> dict[str, Any]:
        original, recipe = self.original, ARMS.get(arm, RECIPES["own"])
        if arm == UNPRUNED:
            model, plan = original.copy(), original.full
            solve_head(model, original.classifier, self.train)
            way: dict[str, Any] = {}
            fewer = None
        else:
            made = make(original, self.train, (), recipe, Budget(fraction, "macs"), importance=self._scores)
            model, plan, fewer = made.model, made.decision.plan, made.of_fewer(original)
            way = {"way": made.recipe.way, "ways": made.steps.get("ways", {})}
        measure = Yardstick(original, self.train).measure(model, plan)
        found = {
            "model_macs": original.cost(plan).macs,
            "output_error": measure.output_error,
            "loo_loss": measure.loo_loss,
            "loo_accuracy": measure.loo_accuracy,
            "untuned": accuracy(model, self.test),
        }
        return found | way | self._tuned(recipe, model, fewer)

    def _scores(self, criterion: str) -> Scores:
        if criterion not in self.known:
            self.known[criterion] = own_importance(self.original, self.train, criterion)
        return self.known[criterion]

    def _tuned(self, recipe: Recipe, model: nn.Module, fewer: MadeOf | None) -> dict[str, Any]:
        if not self.steps:
            return {}
        config = replace(suited(self.original.backbone), steps=self.steps, batch_size=32, flip=True)
        done = tune_by(recipe, model, self.original.classifier, self.train, config, made_of=fewer)
        lr = done.choice.lr if done.choice else None
        return {"tuned": accuracy(model, self.test), "kept": done.kept, "lr": lr}


@click.command()
@click.argument("net")
@click.argument("size", type=int)
@click.option("--classes", default=100, show_default=True, help="Evenly spaced among all.")
@click.option("--shift", default=0, show_default=True, help="Of the classes taken: other ones.")
@click.option("--macs", "fractions", type=float, multiple=True, default=(0.45,))
@click.option("--arm", "arms", multiple=True, type=click.Choice([UNPRUNED, *ARMS]), default=(UNPRUNED, *ARMS))
@click.option("--streams", multiple=True, type=click.Choice(["plain", "rotated"]), default=("plain", "rotated"))
@click.option("--steps", default=100, show_default=True, help="Of tuning; 0: none.")
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(
    net: str,
    size: int,
    classes: int,
    shift: int,
    fractions: tuple[float, ...],
    arms: tuple[str, ...],
    streams: tuple[str, ...],
    steps: int,
    tar: Path,
    work: Path,
) -> None:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "default.jsonl"
    made, state = backbone(net, size, work)
    shown = Photographs(photographs(tar, work), made, work)
    train, test = shown.of(sorted({(place + shift) % 100 for place in np.linspace(0, 99, classes).round().astype(int)}))
    write_text(RESULTS / "default-environment.json", json.dumps(environment(), indent=1) + "\n")
    done = [{name: cell.get(name, 0) for name in KEY} for cell in read(file)]
    for stream in streams:
        missing = [
            cell for cell in cells(net, size, classes, shift, fractions, stream, arms, steps) if cell not in done
        ]
        if not missing:
            continue
        used = rotate(made, state, train) if stream == "rotated" else (made, state)
        bench = Bench(Original.create(*used, int(train.labels.max()) + 1), train, test, steps)
        for cell in missing:
            found = {name: round(v, 4) if isinstance(v, float) else v
                     for name, v in bench.cell(cell["arm"], cell["macs"]).items()}  # fmt: skip
            line = json.dumps(cell | {"train": len(train), "test": len(test)} | found)
            with file.open("a", encoding="utf-8") as out:
                out.write(line + "\n")
            print(line, flush=True)


KEY = ("net", "size", "classes", "shift", "macs", "streams", "arm", "steps")


def cells(
    net: str,
    size: int,
    classes: int,
    shift: int,
    fractions: tuple[float, ...],
    stream: str,
    arms: tuple[str, ...],
    steps: int,
) -> Iterator[dict[str, Any]]:
    """What tells a cell from others. What was once is without rotation; the unpruned model is the same with it."""
    for fraction in fractions:
        for arm in arms:
            if stream == "rotated" and arm in (UNPRUNED, "before"):
                continue
            kept = 1.0 if arm == UNPRUNED else fraction
            yield dict(zip(KEY, (net, size, classes, shift, kept, stream, arm, steps), strict=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
