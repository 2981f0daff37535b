"""The ladder's model cut and re-solved in three rounds, no gradient step: its cells beside those of ladder.py.

    python benchmarks/pretrained/ladder_rounds.py --tar caltech101_160.tar --work WORK [--targets 8]

Bank, targets and budget are those of ladder.py. Called again, it goes on.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
from ladder import BUDGET, CLASSES, EACH, NET, RESULTS, SIZE, TASKS, Net, read, split
from prepare import Photographs, backbone, photographs
from recover import Bench, kept

from mvp_deploy.bank.ladder import _divided as divided
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.imitation import feature_error
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.training import accuracy

ROUNDS = 3
ARM = "re-solved in three rounds"


@click.command()
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--targets", default=8, show_default=True)
@click.option("--seed", default=0)
def main(tar: Path, work: Path, targets: int, seed: int) -> None:
    bank_classes, tasks = split(seed, targets)
    made, state = backbone(NET, SIZE, work)
    pooled, _ = Photographs(photographs(tar, work), made, work).of(bank_classes)
    folder = work / f"ladder-rounds-{seed}"
    folder.mkdir(exist_ok=True)
    turned, weights = kept(folder / "rotated.pt", lambda: rotate(made, state, pooled, seed=seed))
    learned, left_out = divided(pooled, seed)
    bank = Original.create(turned, weights, CLASSES * TASKS)
    model, plan = Bench(bank, learned, left_out, "obs", folder).rounds(BUDGET.fraction, ROUNDS)
    print(f"features off by {feature_error(bank, plan, model, left_out):.3f}", flush=True)
    body = {name: value for name, value in model.state_dict().items() if name not in bank.head}
    whole = Net.of(turned, weights, tar, work)
    file = RESULTS / "ladder.jsonl"
    done = {(c["seed"], c["target"], c["each"], c["arm"]) for c in read(file)}
    for index, classes in enumerate(tasks):
        for each in EACH:
            if (seed, index, each, ARM) in done:
                continue
            train, test = whole.shown.of(classes, each, seed=index)
            small = whole.original.pruned(plan)
            small.load_state_dict({**small.state_dict(), **body}, strict=True)
            solve_head(small, whole.original.classifier, train)
            cell = {"seed": seed, "target": index, "each": each, "arm": ARM, "classes": classes}
            cell |= {"train": len(train), "test": len(test), "accuracy": round(accuracy(small, test), 4)}
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(cell) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
