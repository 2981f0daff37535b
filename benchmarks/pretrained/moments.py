"""Few images: a bank that lends second moments of the unpruned net, beside its ladder. Called again, it goes on.

    python benchmarks/pretrained/moments.py --tar caltech101_160.tar --work WORK [--targets 8]

The bank and the targets of ladder.py. Second moments of every layer's inputs in the *unpruned* net are added up over
the bank's photographs once, whatever is cut later. A target's own photographs give the sensitivities of its loss, and
both together the scores (OBS), so the plan. Then

    from its H    every layer that lost inputs is solved from the bank's moments alone: no image is needed
    from own H    the same, from the moments of the target's own photographs
    re-solved     on 1,024 of the bank's photographs, layer after layer, as `prune` does on a task's own

Heads are solved on the target's photographs, nothing is tuned. A line a cell in results/ladder.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from ladder import BUDGET, EACH, NET, RESULTS, Net, read, split
from prepare import Photographs, backbone, photographs
from torch import nn

from mvp_deploy.pruning import moments, obs
from mvp_deploy.pruning.budget import keep_best
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.pruning.linear import LinearLayer, linear_layers
from mvp_deploy.pruning.moments import CrossMoments, Moments
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.reconstruction import MANY, reconstruct
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images
from mvp_deploy.training import accuracy

SIZE, BATCH = 96, 32
PENALTY = 1e-3  # relative to the inputs' mean square; towards the cut weights


@dataclass(frozen=True)
class Lent:
    """What a bank lends: moments of the unpruned net's layers, and photographs to walk over."""

    original: Original
    layers: Mapping[str, LinearLayer]
    moments: Mapping[str, Moments]
    images: Images

    @classmethod
    def of(cls, original: Original, images: Images) -> Lent:
        layers = linear_layers(original.model, original.structure.example)
        dense = {name: layer for name, layer in layers.items() if layer.groups == 1}
        return cls(original, dense, collected(original, dense, images), images)

    def plan(self, train: Images) -> KeepPlan:
        """By OBS: the target's sensitivities over the bank's moments."""
        original = self.original
        headed = original.headed(train).model
        felt = obs.sensitivities(headed, self.layers, train.batches(BATCH))
        scores = obs.scores(original.structure, headed, original.full, self.moments, felt, self.layers)
        return keep_best(original.structure, scores, cheapest(original.structure, BUDGET, scores))


def collected(original: Original, layers: Mapping[str, LinearLayer], images: Images) -> dict[str, Moments]:
    return moments.collect(original.model, layers, images.batches(BATCH), len(images))


def by_bank(lent: Lent, train: Images, plan: KeepPlan) -> nn.Module:
    return solved(lent, lent.moments, plan)


def by_own(lent: Lent, train: Images, plan: KeepPlan) -> nn.Module:
    return solved(lent, collected(lent.original, lent.layers, train), plan)


def solved(lent: Lent, known: Mapping[str, Moments], plan: KeepPlan) -> nn.Module:
    """The cut model, each layer that lost inputs solved from moments of what the unpruned one reads."""
    original = lent.original
    model, full = original.pruned(plan), original.model
    masks = original.structure.tensor_masks(plan)
    for name, layer in lent.layers.items():
        rows, columns = masks[name][:2]
        if columns is None or name.removesuffix(".weight") in original.classifier:
            continue
        weight = layer.matrix(full.get_parameter(name).detach())[0].double()
        left = np.flatnonzero(np.repeat(columns, layer.columns // len(columns)))
        there = torch.from_numpy(np.append(left, layer.columns))  # the constant stays
        products = known[name].products[0].double()
        bias = full.get_parameter(layer.bias).detach().double() if layer.bias else weight.new_zeros(len(weight))
        wanted = torch.cat([weight, bias[:, None]], 1)
        wanted = wanted if rows is None else wanted[torch.from_numpy(rows)]
        start = wanted[:, there]
        cross = products[there] @ wanted.mT
        squares = ((wanted @ products) * wanted).sum(1)
        problem = CrossMoments(products[there][:, there][None], cross[None], squares[None])
        movable = layer.bias is not None or layer.norm is not None
        [found] = problem.ridge([PENALTY], start[None], constant=movable)
        with torch.no_grad():
            small = model.get_parameter(name)
            small.copy_(found[0, :, :-1].reshape(small.shape))
            if layer.bias is not None:
                model.get_parameter(layer.bias).copy_(found[0, :, -1])
            elif layer.norm is not None:
                model.get_buffer(layer.norm).sub_(found[0, :, -1] - start[:, -1])
    return model


def walked(lent: Lent, train: Images, plan: KeepPlan) -> nn.Module:
    original = lent.original
    model = original.pruned(plan)
    skip = [f"{name}.weight" for name in original.classifier]
    reconstruct(original.model, original.structure, plan, model, lent.images, most=MANY, skip=skip)
    return model


ARMS = {
    "own F over the bank's H, solved from its H": by_bank,
    "own F over the bank's H, solved from own H": by_own,
    "own F over the bank's H, re-solved on its photographs": walked,
}


@click.command()
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--targets", default=8, show_default=True)
@click.option("--seed", default=0)
def main(tar: Path, work: Path, targets: int, seed: int) -> None:
    bank_classes, tasks = split(seed, targets)
    made, state = backbone(NET, SIZE, work)
    pooled, _ = Photographs(photographs(tar, work), made, work).of(bank_classes)
    net = Net.of(*rotate(made, state, pooled, seed=seed), tar, work)
    lent = Lent.of(net.original, pooled)
    file = RESULTS / "ladder.jsonl"
    done = {(c["seed"], c["target"], c["each"], c["arm"]) for c in read(file)}
    for index, classes in enumerate(tasks):
        for each in EACH:
            train, test = net.shown.of(classes, each, seed=index)
            missing = [name for name in ARMS if (seed, index, each, name) not in done]
            plan = lent.plan(train) if missing else lent.original.full
            for name in missing:
                model = ARMS[name](lent, train, plan)
                solve_head(model, lent.original.classifier, train)
                cell = {"seed": seed, "target": index, "each": each, "arm": name, "classes": classes}
                cell |= {"train": len(train), "test": len(test), "accuracy": round(accuracy(model, test), 4)}
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(cell) + "\n")
                print(index, each, name, cell["accuracy"], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
