"""Few images: what a bank's ladder gives tasks of classes that it has never seen. Called again, it goes on.

    python benchmarks/pretrained/ladder.py --tar caltech101_160.tar --work WORK [--steps 1600] [--targets 20] [--whole]

The bank: twelve tasks of five classes, lite0 at 96 px in rotated streams, one model of 40 % of the MACs, cut and
re-solved in three rounds, then taught the unpruned features by imitation. The targets: tasks of five of the other 40
classes, of which 3, 5, 10 or all photographs a class are there to solve the head on. Nothing is tuned for a target, but
for the cells «tuned», of all photographs: the ladder's model and one's own, tuned alike, as front.py does. --whole
makes the models of all the budgets that `bank build` makes by default instead, for heads alone. A line a cell in
results/ladder.jsonl («re-solved» and «imitated» alone are of one cut, as `bank build` made it before); what making the
ladder took in results/ladder-bank-rounds-STEPS.json and ladder-bank-whole-STEPS.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from front import TUNED
from prepare import Photographs, backbone, photographs
from torch import nn

from mvp_deploy.backbones import Backbone
from mvp_deploy.bank import ladder
from mvp_deploy.bank.rung import Rung
from mvp_deploy.bank.rung import start as on_rung
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.cli._common import Console
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.config import LADDER
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.imitation import TUNING
from mvp_deploy.pruning.making import make
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import RECIPES, Recipe, changed
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.tasks import Images
from mvp_deploy.training import accuracy, fit

RESULTS = Path(__file__).parent / "results"
NET, SIZE, SMALLER = "lite0", 96, 64  # pixels; what a user would take instead
BUDGET = Budget(0.4, "macs")
CLASSES, TASKS = 5, 12  # of a task, in the bank
EACH = (3, 5, 10, None)  # photographs a class; None: all
OWN = {  # what a target can do alone
    "own": changed(RECIPES["own"], ["reconstruct=false", "norms=recomputed"]),
    "own re-solved": RECIPES["own"],
    "compensated": RECIPES["compensated"],
}


def split(seed: int, targets: int) -> tuple[list[int], list[list[int]]]:
    """The bank's classes, and each target's, of those that the bank does not have."""
    random = np.random.default_rng(seed)
    order = random.permutation(100)
    bank, others = order[: CLASSES * TASKS], order[CLASSES * TASKS :]
    return bank.tolist(), [sorted(random.choice(others, CLASSES, replace=False).tolist()) for _ in range(targets)]


def built(
    folder: Path,
    start: Backbone,
    weights: dict[str, torch.Tensor],
    pooled: Images,
    steps: int,
    budgets: Sequence[Budget] = (BUDGET,),
) -> list[Rung]:
    """The ladder's models, imitating for ``steps``; made where they are not there yet."""
    bank = Bank.open(folder) if (folder / "bank.json").exists() else Bank.init(folder, start, weights)
    return ladder.build(bank, pooled, budgets, replace(TUNING, steps=steps), reporter=Console())


@dataclass
class Net:
    """A backbone, its photographs, and the unpruned model."""

    shown: Photographs
    original: Original

    @classmethod
    def of(cls, made: Backbone, state: dict[str, torch.Tensor], tar: Path, work: Path) -> Net:
        shown = Photographs(photographs(tar, work), made, work)
        return cls(shown, Original.create(made, state, CLASSES))

    def on_head(self, train: Images) -> nn.Module:
        model = self.original.copy()
        solve_head(model, self.original.classifier, train)
        return model

    def tuned(self, model_for: Callable[[Images], nn.Module], train: Images) -> nn.Module:
        """What ``model_for`` makes, trained, its head solved again."""
        model = model_for(train)
        fit(model, train, TUNED)
        solve_head(model, self.original.classifier, train)
        return model

    def alone(self, recipe: Recipe, train: Images) -> nn.Module:
        return make(self.original, train, (), recipe, BUDGET).model


TUNED_TOO = ("imitated", "compensated")  # in the names of arms
Arm = tuple[str, Net, Callable[[Images], nn.Module]]


def arms(whole: Net, smaller: Net, rungs: dict[str, Rung]) -> Iterator[Arm]:
    """Name, backbone, and how its model is made from a target's training photographs."""
    yield "unpruned", whole, whole.on_head
    yield f"lite0 at {SMALLER} px", smaller, smaller.on_head
    for name, rung in rungs.items():
        yield name, whole, partial(on_rung, whole.original, rung)
    for name, recipe in OWN.items():
        yield name, whole, partial(whole.alone, recipe)


@click.command()
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=1600, show_default=True, help="Of imitation.")
@click.option("--targets", default=20, show_default=True)
@click.option("--alone", default=8, show_default=True, help="Targets that are also pruned by their own images alone.")
@click.option("--seed", default=0)
@click.option("--build-only", is_flag=True)
@click.option("--whole", "every", is_flag=True, help="All of `bank build`'s budgets.")
def main(tar: Path, work: Path, steps: int, targets: int, alone: int, seed: int, build_only: bool, every: bool) -> None:
    RESULTS.mkdir(exist_ok=True)
    bank_classes, tasks = split(seed, targets)
    made, state = backbone(NET, SIZE, work)
    pooled, _ = Photographs(photographs(tar, work), made, work).of(bank_classes)
    turned, weights = rotate(made, state, pooled, seed=seed)
    if every:
        budgets = [Budget(share, "macs") for share in LADDER]
        made_of = built(work / f"whole-{seed}-{steps}", turned, weights, pooled, steps, budgets)
        rungs = {f"ladder, {rung.budget.fraction:.0%} of the MACs": rung for rung in made_of}
    else:
        rungs = {
            name: built(work / f"rounds-{seed}-{n}", turned, weights, pooled, n)[0]
            for name, n in (("three rounds", 0), (f"three rounds, imitated for {steps} steps", steps))
        }
    told = {
        "photographs": len(pooled), "classes": len(bank_classes), 
        "rungs": {name: rung.to_json() for name, rung in rungs.items()},
        "training": asdict(replace(TUNING, steps=steps)), "environment": environment(),
    }  # fmt: skip
    bank_file = RESULTS / f"ladder-bank-{'whole' if every else 'rounds'}-{steps}.json"
    if not bank_file.exists():
        write_text(bank_file, json.dumps(told, indent=1) + "\n")
    if build_only:
        return
    alone = 0 if every else alone
    whole = Net.of(turned, weights, tar, work)
    smaller = Net.of(*backbone(NET, SMALLER, work), tar, work)
    file = RESULTS / "ladder.jsonl"
    done = {(c["seed"], c["target"], c["each"], c["arm"]) for c in read(file)}
    for index, classes in enumerate(tasks):
        for each in EACH:
            wanted = list(arms(whole, smaller, rungs))
            if each is None and not every:
                wanted += [
                    (f"{name}, tuned", net, partial(net.tuned, model_for))
                    for name, net, model_for in wanted
                    if any(word in name for word in TUNED_TOO)
                ]
            for name, net, model_for in wanted:
                if (seed, index, each, name) in done or (name in OWN and index >= alone):
                    continue
                train, test = net.shown.of(classes, each, seed=index)
                model = model_for(train)
                cell = {"seed": seed, "target": index, "each": each, "arm": name, "classes": classes}
                cell |= {"train": len(train), "test": len(test), "accuracy": round(accuracy(model, test), 4)}
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(cell) + "\n")
        print(f"target {index} done", flush=True)


def read(file: Path) -> list[dict[str, Any]]:
    """The cells of a file; none where it is missing."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
