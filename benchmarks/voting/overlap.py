"""Do similar tasks keep the same units, and which similarity foretells overlap and transfer?

    python benchmarks/voting/overlap.py disjoint resnet --data FOLDER --work WORK [--keep 0.3]

Over all pairs of a bank's tasks: the Jaccard index of their kept units per group, corrected for chance (0: as random
masks of that size, 1: the same units), against four similarities. Over all pairs of target and bank task: how well
the bank task's pruned model tells the target's classes apart, with a solved head and no tuning, against the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations

import click
import numpy as np
from options import Place, study
from prepare import bank
from run import RESULTS

from mvp_deploy.bank.entry import Entry
from mvp_deploy.bank.nearest import RUN_MODELS, similarities
from mvp_deploy.bank.trial import Trials
from mvp_deploy.base.environment import environment
from mvp_deploy.pruning.budget import Scores
from mvp_deploy.pruning.head import recalibrate, solve_head
from mvp_deploy.pruning.mvp import own_importance
from mvp_deploy.pruning.votes import ranks
from mvp_deploy.structure import KeepPlan
from mvp_deploy.training import accuracy


def overlap(one: KeepPlan, other: KeepPlan) -> dict[str, float]:
    """Per group, the Jaccard index of the kept units corrected for chance; groups kept whole are left out."""
    result = {}
    for name, a in one.masks.items():
        b = other.masks[name]
        q = a.mean()
        if q < 1:
            chance = q / (2 - q)  # two random masks that keep a share q
            result[name] = float((np.sum(a & b) / np.sum(a | b) - chance) / (1 - chance))
    return result


def agreement(one: Scores, other: Scores) -> float:
    """How alike two tasks rank the units of the unpruned model: Spearman's correlation, the mean over groups."""
    a, b = ranks(one), ranks(other)
    return float(np.mean([np.corrcoef(a[name], b[name])[0, 1] for name in a if len(a[name]) > 1]))


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float]) -> float:
    order = [np.argsort(np.argsort(values)) for values in (x, y)]
    return float(np.corrcoef(*order)[0, 1])


def similarity(task: Trials, own: Scores, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """How similar a task is to each stored one, by four measures: name -> float64 [entries]."""
    sized = {n: task.original.with_classes(n) for n in {len(entry.classes) for entry in entries}}

    def run(name: str) -> np.ndarray:
        return np.array([RUN_MODELS[name](entry, sized[len(entry.classes)], task.train) for entry in entries])

    return {
        "prototypes": similarities(task.signature, [entry.signature() for entry in entries]),
        "leep": run("leep"),
        "features": run("features"),
        "importance": np.array([agreement(own, entry.scores()) for entry in entries]),
    }


def transfer(task: Trials, entry: Entry) -> float:
    """Held-out accuracy of a stored task's pruned model on the target: a solved head, nothing tuned."""
    original = task.original.with_classes(len(entry.classes))
    donor = {name: value for name, value in entry.weights().items() if name not in original.head}
    model = task.original.pruned(entry.plan)
    model.load_state_dict({**model.state_dict(), **donor})
    recalibrate(model, task.train)
    solve_head(model, task.original.classifier, task.train)
    return accuracy(model, task.test)


@click.command()
@study
@click.option("--keep", default=0.3, show_default=True)
@click.option("--targets", "most", type=int, help="Only so many.")
def main(place: Place, keep: float, most: int | None) -> None:
    chosen, net, where = place.setting, place.net, place.device
    store = bank(chosen, net, keep, place.work, where)
    entries = [store.entry(task.name) for task in chosen.bank]
    pairs = np.array(list(combinations(range(len(entries)), 2)))
    groups = [overlap(entries[a].plan, entries[b].plan) for a, b in pairs]
    mean = [float(np.mean(list(found.values()))) for found in groups]
    known = zip(chosen.bank, entries, strict=True)
    rows = [similarity(Trials.of(task, store, where), entry.scores(), entries) for task, entry in known]
    square = {measure: np.stack([row[measure] for row in rows]) for measure in rows[0]}
    alike = {measure: [(m[a, b] + m[b, a]) / 2 for a, b in pairs] for measure, m in square.items()}
    told: dict[str, list[float]] = {measure: [] for measure in alike}
    gained: list[float] = []
    for task in chosen.targets[:most]:
        new = Trials.of(task, store, where)
        reached = [transfer(new, entry) for entry in entries]
        gained.append(float(np.std(reached)))
        own = own_importance(new.original, new.train, "taylor")
        for measure, values in similarity(new, own, entries).items():
            told[measure].append(spearman(values, reached))
    result = {
        "setting": chosen.name,
        "net": net,
        "keep": keep,
        "targets": len(gained),
        "environment": environment(),
        "overlap": {name: float(np.mean([found[name] for found in groups])) for name in groups[0]},
        "overlap_of_pairs": {"mean": float(np.mean(mean)), "std": float(np.std(mean))},
        "similarity_and_overlap": {measure: spearman(values, mean) for measure, values in alike.items()},
        "similarity_and_transfer": {measure: float(np.mean(values)) for measure, values in told.items()},
        "transfer_std": float(np.mean(gained)),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"overlap-{chosen.name}-{net}-{keep}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["similarity_and_overlap"]), json.dumps(result["similarity_and_transfer"]))


if __name__ == "__main__":
    main()
