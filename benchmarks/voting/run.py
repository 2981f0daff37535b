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
import torch
from arms import EXPERIMENTS, UNPRUNED
from cells import Cell, Target, Unpruned
from prepare import NETS, bank
from settings import SETTINGS, setting

from mvp_deploy import devices

RESULTS = Path(__file__).parent / "results"
KEY = ("keep", "target", "seed", "arm", "steps")


@click.command()
@click.argument("experiment", type=click.Choice(list(EXPERIMENTS)))
@click.argument("setting_name", type=click.Choice(SETTINGS))
@click.argument("net", type=click.Choice(list(NETS)))
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--keep", "keeps", type=float, multiple=True, help="Only these fractions.")
@click.option("--seeds", type=int, help="Fewer than the experiment has.")
@click.option("--arm", "arms", multiple=True, help="Only these arms.")
@click.option("--development", is_flag=True, help="On tasks to try recipes on, instead of the targets.")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
def main(
    experiment: str, setting_name: str, net: str, data: Path, work: Path, keeps: tuple[float, ...], seeds: int | None,
    arms: tuple[str, ...], development: bool, device: str, threads: int,
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    asked, where = EXPERIMENTS[experiment], devices.resolve(device)
    if setting_name not in asked.settings:
        raise click.UsageError(f"{experiment} has the settings {', '.join(asked.settings)}")
    chosen = setting(setting_name, data, development)
    file = RESULTS / f"{'development-' if development else ''}{setting_name}-{net}.jsonl"
    done = {tuple(cell[name] for name in KEY) for cell in read(file)}
    unpruned: dict[str, Unpruned] = defaultdict(dict)
    for keep in keeps or asked.keeps:
        voters = bank(chosen, net, keep, work, where)
        targets: dict[int, Target] = {}
        for seed in range(seeds or asked.seeds):
            wanted = arms or (asked.arms if seed else (*asked.once, *asked.arms))
            for index, task in enumerate(chosen.targets):
                keys = [key_of(keep, task.name, seed, arm, steps) for arm in wanted for steps in asked.steps]
                missing = [key for key in keys if tuple(key.values()) not in done]
                if missing and index not in targets:
                    targets[index] = Target.of(task, chosen, voters, keep, where, unpruned[task.name])
                for key in missing:
                    cell = targets[index].cell(key["arm"], seed, key["steps"])
                    append(file, key | rounded(cell))
                    done.add(tuple(key.values()))
                print(f"{setting_name} {net} keep {keep} seed {seed} target {index}: {len(missing)} cells", flush=True)


def key_of(keep: float, target: str, seed: int, arm: str, steps: int) -> dict[str, Any]:
    """What tells a cell from others; the unpruned model is the same for every fraction."""
    return {"keep": 1.0 if arm == UNPRUNED else keep, "target": target, "seed": seed, "arm": arm, "steps": steps}


def read(file: Path) -> Iterator[dict[str, Any]]:
    """The cells of a file; none where it is missing. A line cut short by a kill is passed over."""
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def append(file: Path, cell: Cell) -> None:
    with file.open("a") as out:
        out.write(json.dumps(cell) + "\n")


def rounded(cell: Cell) -> Cell:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in cell.items()}


if __name__ == "__main__":
    main()
