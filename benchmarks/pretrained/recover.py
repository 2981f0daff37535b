"""Ways to give back more of what was cut than one cut and one re-solving do, without a bank.

    python benchmarks/pretrained/recover.py lite2 128 --classes 12 --macs 0.45 --way imitated --tar TAR --work WORK

Streams are rotated and units scored by obs. A line a cell in results/recover.jsonl: leave-one-out cross-entropy on the
training photographs, held-out accuracy untuned under a head in closed form, and tuned as `prune` does it. Killed
and called again it goes on from the last step that is in the work folder.

    once      one cut, layers re-solved on 256 photographs: as `prune` does it
    flipped   the same on all photographs and their mirror images, for scores, re-solving and the head
    rounds    several cuts, units scored again and layers re-solved after each
    imitated  once, then taught the unpruned features of the task's own photographs, no labels read
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ladder import read
from prepare import Photographs, backbone, kept, photographs
from torch import nn

from mvp_deploy.pruning import budget as budgets
from mvp_deploy.pruning import knapsack
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.imitation import TUNING, feature_error, imitate
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.original import Original, suited
from mvp_deploy.pruning.reconstruction import reconstruct
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.pruning.tuning import tune
from mvp_deploy.pruning.yardstick import Yardstick
from mvp_deploy.structure import KeepPlan, gather
from mvp_deploy.tasks import Images
from mvp_deploy.training import accuracy

FILE = Path(__file__).parent / "results" / "recover.jsonl"


@dataclass(frozen=True)
class Bench:
    """A backbone on one task. work: a folder for what is worked out once."""

    original: Original
    train: Images
    test: Images
    criterion: str
    work: Path

    def once(self, fraction: float) -> tuple[nn.Module, KeepPlan]:
        return self.cut(self.original.copy(), self.original.full, fraction, self.train, 256, "once")

    def flipped(self, fraction: float) -> tuple[nn.Module, KeepPlan]:
        images = with_mirrored(self.train)
        return self.cut(self.original.copy(), self.original.full, fraction, images, len(images), "flipped")

    def rounds(self, fraction: float, rounds: int) -> tuple[nn.Module, KeepPlan]:
        model, plan = self.original.copy(), self.original.full
        for done in range(1, rounds + 1):
            share = fraction ** (done / rounds)
            name = "once" if done == 1 else f"{rounds}-rounds-{share:.3f}"
            model, plan = self.cut(model, plan, share, self.train, 256, name)
        return model, plan

    def imitated(self, fraction: float, steps: int, lr: float) -> tuple[nn.Module, KeepPlan]:
        model, plan = self.once(fraction)
        config = replace(TUNING, steps=steps, lr=lr, batch_size=32)
        checkpoint = self.work / f"imitation-{fraction}-{self.criterion}-{steps}-{lr}"
        print("off", feature_error(self.original, plan, model, self.test), flush=True)
        imitate(self.original, plan, model, self.train, config, checkpoint=checkpoint)
        print("off", feature_error(self.original, plan, model, self.test), flush=True)
        return model, plan

    def cut(
        self, model: nn.Module, plan: KeepPlan, fraction: float, images: Images, most: int, name: str
    ) -> tuple[nn.Module, KeepPlan]:
        """One cut of a model that ``plan`` describes, and the re-solving that follows; ``name``: of its scores."""
        original, structure = self.original, self.original.structure

        def scored() -> Scores:
            solve_head(model, original.classifier, images)
            return score(self.criterion, structure, model, plan, images)

        def solved() -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
            scores = kept(self.work / f"scores-{self.criterion}-{name}.pt", scored)
            counts = knapsack.cheapest(structure, Budget(fraction, "macs"), scores, within=plan)
            fewer = budgets.keep_best(structure, scores, counts, within=plan)
            weights = gather(structure, original.widened(plan, model.state_dict()), fewer)
            smaller = original.pruned(fewer, weights)
            skip = [f"{head}.weight" for head in original.classifier]
            reconstruct(original.model, structure, fewer, smaller, images, most=most, skip=skip)
            return smaller.state_dict(), dict(fewer.masks)

        weights, masks = kept(self.work / f"solved-{self.criterion}-{name}-{fraction:.3f}.pt", solved)
        return original.pruned(KeepPlan(masks), weights), KeepPlan(masks)


def with_mirrored(images: Images) -> Images:
    pixels = images.pixels
    assert isinstance(pixels, torch.Tensor)
    return replace(images, pixels=torch.cat([pixels, pixels.flip(3)]), labels=images.labels.repeat(2))


@click.command()
@click.argument("net")
@click.argument("size", type=int)
@click.option("--classes", default=12, show_default=True, help="Evenly spaced among all.")
@click.option("--macs", "fraction", default=0.45, show_default=True)
@click.option("--criterion", type=click.Choice(["obs", "taylor"]), default="obs", show_default=True)
@click.option("--way", type=click.Choice(["unpruned", "once", "flipped", "rounds", "imitated"]), required=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--imitate", default=300, show_default=True, help="Steps of 'imitated'.")
@click.option("--lr", default=TUNING.lr, show_default=True, help="Of 'imitated'.")
@click.option("--steps", default=100, show_default=True, help="Of tuning; 0: none.")
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(
    net: str,
    size: int,
    classes: int,
    fraction: float,
    criterion: str,
    way: str,
    rounds: int,
    imitate: int,
    lr: float,
    steps: int,
    tar: Path,
    work: Path,
) -> None:
    made, state = backbone(net, size, work)
    shown = Photographs(photographs(tar, work), made, work)
    train, test = shown.of(np.linspace(0, 99, classes).round().astype(int).tolist())
    work = work / f"recover-{net}-{size}-{classes}"
    work.mkdir(exist_ok=True)
    turned, weights = kept(work / "rotated.pt", lambda: rotate(made, state, train))
    bench = Bench(Original.create(turned, weights, classes), train, test, criterion, work)
    original = bench.original
    named = {"imitated": f"imitated, {imitate} steps at {lr:g}", "rounds": f"{rounds} rounds"}.get(way, way)
    cell: dict[str, Any] = {"net": net, "size": size, "classes": classes, "macs": fraction, "criterion": criterion}
    cell |= {"way": named, "steps": steps}
    if any(cell.items() <= old.items() for old in read(FILE)):
        return
    ways: dict[str, Callable[[float], tuple[nn.Module, KeepPlan]]] = {
        "unpruned": lambda fraction: (original.copy(), original.full),
        "once": bench.once,
        "flipped": bench.flipped,
        "rounds": partial(bench.rounds, rounds=rounds),
        "imitated": partial(bench.imitated, steps=imitate, lr=lr),
    }
    name = f"model-{criterion}-{fraction}-{named}.pt"

    def made_one() -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
        model, plan = ways[way](fraction)
        return model.state_dict(), dict(plan.masks)

    state, masks = kept(work / name, made_one)
    plan = KeepPlan(masks)
    model = original.pruned(plan, state)
    solve_head(model, original.classifier, with_mirrored(train) if way == "flipped" else train)
    measure = Yardstick(original, train).measure(model, plan)
    cell |= {"loo_loss": measure.loo_loss, "loo_accuracy": measure.loo_accuracy, "untuned": accuracy(model, test)}
    cell |= {"error": feature_error(original, plan, model, test), "model_macs": original.cost(plan).macs}
    print(cell, flush=True)
    if steps:
        config = replace(suited(original.backbone), steps=steps, batch_size=32, flip=True)
        done = tune(model, original.classifier, train, config, checkpoint=work / f"tuning-{name}")
        cell |= {"tuned": accuracy(model, test), "kept": done.kept, "lr": done.choice.lr if done.choice else None}
    found = {name: round(value, 4) if isinstance(value, float) else value for name, value in cell.items()}
    with FILE.open("a", encoding="utf-8") as out:
        out.write(json.dumps(found) + "\n")
    print(found, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
