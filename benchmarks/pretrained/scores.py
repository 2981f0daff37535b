"""Which units go, and how the budget is shared: scores, plain or in rotated streams, on really pretrained weights.

    python benchmarks/pretrained/scores.py WORK --tar caltech101_160.tar --size 128 --fractions 0.6 0.4

One JSON a cell in results/scores: accuracy and cross-entropy on held-out photographs of a model cut to a share of the
MACs (one threshold on score per MAC), its readers re-solved and its head solved, without a gradient step. Cells that
are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from prepare import Photographs, backbone, photographs
from torch.nn import functional

from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import atomic_write
from mvp_deploy.pruning.budget import Budget, keep_best
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.pruning.original import Original, check_exact
from mvp_deploy.pruning.reconstruction import reconstruct
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.tasks import Images
from mvp_deploy.training import accuracy

RESULTS = Path(__file__).parent / "results" / "scores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--net", default="lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--classes", type=int, default=100, help="every so manieth of the 100")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.6, 0.4])
    parser.add_argument("--criteria", nargs="+", default=["obs", "taylor"])
    parser.add_argument("--streams", nargs="+", choices=["rotated", "plain"], default=["rotated", "plain"])
    asked = parser.parse_args()
    start, state = backbone(asked.net, asked.size, asked.work)
    every = Photographs(photographs(asked.tar, asked.work), start, asked.work)
    step = 100 // asked.classes
    train, test = every.of(list(range(0, 100, step))[: asked.classes])
    for streams in asked.streams:
        cells = {
            RESULTS / f"{asked.net}-{asked.size}-{asked.classes}-{streams}-{criterion}-{fraction:g}.json": (
                criterion,
                fraction,
            )
            for criterion in asked.criteria
            for fraction in asked.fractions
        }
        missing = {file: cell for file, cell in cells.items() if not file.exists()}
        if not missing:
            continue
        used, weights = rotate(start, state, train) if streams == "rotated" else (start, state)
        original = Original.create(used, weights, asked.classes)
        whole = original.copy()
        solve_head(whole, original.classifier, train)
        unpruned = {"accuracy": accuracy(whole, test), "macs": original.cost().macs, "params": original.cost().params}
        known = {}
        for file, (criterion, fraction) in missing.items():
            if criterion not in known:
                before = time.process_time()
                scores = score(criterion, original.structure, whole, original.full, train)
                known[criterion] = scores, time.process_time() - before
            scores, seconds = known[criterion]
            cell = vars(asked) | {"streams": streams, "criterion": criterion, "fraction": fraction}
            result = one(original, scores, fraction, train, test)
            content = {
                "cell": {
                    name: str(v) if isinstance(v, Path) else v for name, v in cell.items() if name not in _OPTIONS
                },
                "unpruned": unpruned,
                "result": result | {"scoring_cpu_seconds": seconds},
                "environment": environment(),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n")
            print(file.name, json.dumps(result), flush=True)


_OPTIONS = ("work", "tar", "fractions", "criteria")


def one(original: Original, scores: dict, fraction: float, train: Images, test: Images) -> dict[str, float]:
    """Cut, re-solve, and measure on held-out photographs after each of the two."""
    structure = original.structure
    plan = keep_best(structure, scores, cheapest(structure, Budget(fraction, "macs"), scores))
    model = original.pruned(plan)
    exactness = check_exact(original, plan, model, train)
    solve_head(model, original.classifier, train)
    cut = accuracy(model, test)
    before = time.process_time()
    reconstruct(
        original.model, structure, plan, model, train, skip=tuple(f"{name}.weight" for name in original.classifier)
    )
    seconds = time.process_time() - before
    solve_head(model, original.classifier, train)
    with torch.no_grad():
        losses = [functional.cross_entropy(model(x), y, reduction="sum") for x, y in test.batches(128)]
    cost = original.cost(plan)
    return {
        "accuracy_cut": cut,
        "accuracy": accuracy(model, test),
        "cross_entropy": float(sum(losses)) / len(test),
        "macs": cost.macs,
        "params": cost.params,
        "exactness": exactness,
        "reconstruction_cpu_seconds": seconds,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
