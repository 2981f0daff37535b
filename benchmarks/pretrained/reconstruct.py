"""What reconstruction gives on really pretrained weights: one cell, one JSON; a cell that is there is not done again.

    python benchmarks/pretrained/reconstruct.py lite2 128 0.45 --tar caltech101_160.tar --work WORK [--classes 12]

Held-out accuracy of the unpruned net, of the net cut by Taylor importance under one threshold, and of the same
re-solved on at most 256 training photographs, each under a head in closed form; no gradient step. Seconds are of
processor time, by as many threads as torch takes.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import torch
from prepare import Photographs, backbone, photographs
from torch import nn

from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.mvp import Decision, cut, decide
from mvp_deploy.pruning.original import Original, check_exact
from mvp_deploy.pruning.recipes import RECIPES, changed
from mvp_deploy.pruning.reconstruction import reconstruct
from mvp_deploy.pruning.yardstick import Yardstick
from mvp_deploy.training import accuracy

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("net")
@click.argument("size", type=int)
@click.argument("macs", type=float)
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--classes", type=int, default=100, help="Evenly spaced among all.")
@click.option("--seed", type=int, default=0)
def main(net: str, size: int, macs: float, tar: Path, work: Path, classes: int, seed: int) -> None:
    file = RESULTS / f"reconstruct-{net}-{size}-{macs}-{classes}-{seed}.json"
    if file.exists():
        return
    made, state = backbone(net, size, work)
    shown = Photographs(photographs(tar, work), made, work)
    every = len(shown.task.classes)
    train, test = shown.of(np.linspace(0, every - 1, classes).round().astype(int).tolist())
    original = Original.create(made, state, classes)
    yardstick = Yardstick(original, train)
    recipe = changed(RECIPES["own"], ["scope=global"])
    decision: Decision = decide(original, train, (), recipe, Budget(macs, "macs"), seed=seed)
    model = cut(original, decision)
    error = check_exact(original, decision.plan, model, train)

    def state_of(model: nn.Module) -> dict[str, float]:
        measured = asdict(yardstick.measure(model, decision.plan)) if model is not whole else asdict(yardstick.unpruned)
        solve_head(model, original.classifier, train)
        return measured | {"accuracy": accuracy(model, test)}

    whole = original.copy()
    steps = {"unpruned": state_of(whole), "cut": state_of(model)}
    begun = time.process_time()
    heads = [f"{name}.weight" for name in original.classifier]
    done = reconstruct(original.model, original.structure, decision.plan, model, train, skip=heads, seed=seed)
    seconds = time.process_time() - begun
    steps["reconstructed"] = state_of(model) | {"cpu_seconds": seconds, "images": done.images}
    told = {
        "net": net, "size": size, "macs": macs, "classes": classes, "seed": seed,
        "images": {"train": len(train), "test": len(test)},
        "model_macs": {"unpruned": original.cost().macs, "pruned": original.cost(decision.plan).macs},
        "exactness": error, "steps": steps, "layers": [asdict(layer) for layer in done.layers],
        "threads": torch.get_num_threads(), "environment": environment(),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    write_text(file, json.dumps(told, indent=1) + "\n")
    print(json.dumps({name: {k: round(v, 4) for k, v in step.items()} for name, step in steps.items()}), flush=True)


if __name__ == "__main__":
    main()
