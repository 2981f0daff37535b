"""One round of choosing or three, and few images to re-solve on or many.

    python benchmarks/pretrained/rounds.py lite2 128 --classes 100 --macs 0.45 --tar caltech101_160.tar --work WORK

Rotated streams, one threshold on obs, nothing tuned. A line a cell in results/rounds.jsonl: leave-one-out cross-entropy
on the training photographs and accuracy on held-out ones under a head in closed form. Cells that are there are not run
again; a plan, which takes longest, is chosen once for all numbers of images.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import torch
from ladder import read
from prepare import Photographs, backbone, photographs

from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.mvp import cut, importances, in_rounds, re_solve
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import RECIPES, changed
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.pruning.yardstick import Yardstick
from mvp_deploy.training import accuracy

FILE = Path(__file__).parent / "results" / "rounds.jsonl"


@click.command()
@click.argument("net")
@click.argument("size", type=int)
@click.option("--classes", default=100, show_default=True, help="Evenly spaced among all.")
@click.option("--macs", "fraction", default=0.45, show_default=True)
@click.option("--rounds", "every", type=int, multiple=True, default=(1, 3), show_default=True)
@click.option("--images", "many", type=int, multiple=True, default=(256, 1024), show_default=True)
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(
    net: str,
    size: int,
    classes: int,
    fraction: float,
    every: tuple[int, ...],
    many: tuple[int, ...],
    tar: Path,
    work: Path,
) -> None:
    start, state = backbone(net, size, work)
    shown = Photographs(photographs(tar, work), start, work)
    train, test = shown.of(np.linspace(0, 99, classes).round().astype(int).tolist())
    original = Original.create(*rotate(start, state, train), classes)
    yardstick, scores = Yardstick(original, train), importances(original, train)
    there = read(FILE)
    for rounds in every:
        cell = {"net": net, "size": size, "classes": classes, "macs": fraction, "rounds": rounds}
        wanted = [n for n in many if not any((cell | {"images": n}).items() <= old.items() for old in there)]
        if not wanted:
            continue
        recipe = changed(RECIPES["compensated"], [f"rounds={rounds}"])
        decision = in_rounds(original, train, recipe, Budget(fraction, "macs"), lambda: scores("obs"))
        for images in wanted:
            model = cut(original, decision)
            re_solve(model, original, train, decision, recipe, most=images)
            loss = yardstick.measure(model, decision.plan).loo_loss
            solve_head(model, original.classifier, train)
            found = cell | {"images": images, "loo_loss": round(loss, 4), "untuned": round(accuracy(model, test), 4)}
            with FILE.open("a", encoding="utf-8") as out:
                out.write(json.dumps(found) + "\n")
            print(found, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
