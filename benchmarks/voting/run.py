"""Fill the cells of an experiment, one after another; called again, it goes on with those that are missing.

    python benchmarks/voting/run.py main disjoint resnet --data FOLDER --work WORK [--keep 0.3] [--seeds 1]

FOLDER holds cifar100_200x50.npz, caltech101_64.npz, omniglot28.npz. WORK keeps backbones and banks, made where they
are missing. Cells go to results/SETTING-NET.jsonl, a line each; processes on different settings or nets may run at
the same time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from arms import EXPERIMENTS, UNPRUNED
from cells import Cell, Target, Unpruned
from options import Place, study
from prepare import bank

from mvp_deploy.bank.store import Bank
from mvp_deploy.base.environment import environment

RESULTS = Path(__file__).parent / "results"
KEY = ("keep", "target", "seed", "arm", "steps")


@click.command()
@click.argument("experiment", type=click.Choice(list(EXPERIMENTS)))
@study
@click.option("--keep", "keeps", type=float, multiple=True, help="Only these fractions.")
@click.option("--seeds", type=int, help="Fewer than the experiment has.")
@click.option("--targets", "most", type=int, help="Only so many.")
@click.option("--arm", "arms", multiple=True, help="Only these arms.")
def main(
    experiment: str, place: Place, keeps: tuple[float, ...], seeds: int | None, most: int | None, arms: tuple[str, ...]
) -> None:
    chosen, net, asked = place.setting, place.net, EXPERIMENTS[experiment]
    if chosen.name not in asked.settings:
        raise click.UsageError(f"{experiment} has the settings {', '.join(asked.settings)}")
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{'development-' if chosen.development else ''}{chosen.name}-{net}.jsonl"
    done = {tuple(cell[name] for name in KEY) for cell in read(file)}
    unpruned: dict[str, Unpruned] = defaultdict(dict)
    for keep in keeps or asked.keeps:
        voters = bank(chosen, net, keep, place.work, place.device)
        describe(voters, {"setting": chosen.bank_name, "net": net, "keep": keep})
        targets: dict[int, Target] = {}
        for seed in range(seeds or asked.seeds):
            wanted = arms or (asked.arms if seed else (*asked.once, *asked.arms))
            for index, task in enumerate(chosen.targets[:most]):
                keys = [key_of(keep, task.name, seed, arm, steps) for arm in wanted for steps in asked.steps]
                missing = [key for key in keys if tuple(key.values()) not in done]
                if missing and index not in targets:
                    targets[index] = Target.of(task, chosen, voters, keep, place.device, unpruned[task.name])
                for key in missing:
                    cell = targets[index].cell(key["arm"], seed, key["steps"])
                    append(file, key | rounded(cell))
                    done.add(tuple(key.values()))
                print(f"{chosen.name} {net} keep {keep} seed {seed} target {index}: {len(missing)} cells", flush=True)


def describe(voters: Bank, settings: dict[str, Any]) -> None:
    """Keep what the bank cost per task, and where the study runs."""
    file = RESULTS / f"bank-{'-'.join(map(str, settings.values()))}.json"
    entries = list(voters.entries())
    cost = {name: float(np.mean([entry.cost[name] for entry in entries])) for name in ("macs", "seconds", "steps")}
    reached = {
        name: float(np.mean([entry.metrics[name] for entry in entries])) for name in ("unpruned_accuracy", "accuracy")
    }
    told = settings | {"tasks": len(entries)} | rounded(cost | reached) | {"environment": environment()}
    file.write_text(json.dumps(told, indent=2) + "\n")


def key_of(keep: float, target: str, seed: int, arm: str, steps: int) -> dict[str, Any]:
    """What tells a cell from others; the unpruned model is the same for every fraction."""
    return {"keep": 1.0 if arm == UNPRUNED else keep, "target": target, "seed": seed, "arm": arm, "steps": steps}


def read(file: Path) -> Iterator[dict[str, Any]]:
    """The cells of a file; none where it is missing. A line cut short by a kill is passed over."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def append(file: Path, cell: Cell) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(cell) + "\n")


def rounded(cell: Cell) -> Cell:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in cell.items()}


if __name__ == "__main__":
    main()
