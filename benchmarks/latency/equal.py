"""At equal measured milliseconds: a budget of milliseconds against one of MACs, and unpruned smaller images.

    python benchmarks/latency/equal.py WORK --tar caltech101_160.tar --profile WORK/lite0-128.json

ImageNet weights, Caltech photographs, nothing tuned: scores by OBS, readers re-solved, heads in closed form. For each
share of the unpruned time one plan by milliseconds, and one by MACs whose fraction is chosen so that the profile
predicts the same time; then all models are timed together, in turns, in fresh processes. One JSON; models that are
there are not made again. The profile must be of this machine:

    mvp-deploy profile tf_efficientnet_lite0 --image-size 128 --out WORK/lite0-128.json
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "pretrained"))
from prepare import Photographs, backbone, photographs

from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.benchmark.looks import Round, looks
from mvp_deploy.benchmark.measure import Settings, timing
from mvp_deploy.benchmark.statistics import paired_change
from mvp_deploy.cli._common import Console
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.latency import files
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.plan import solve
from mvp_deploy.pruning.budget import Budget, keep_best
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.reconstruction import reconstruct
from mvp_deploy.structure import Structure
from mvp_deploy.tasks import Images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--net", default="lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.6, 0.45])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "equal.json")
    asked = parser.parse_args()
    profile = files.read(asked.profile)
    start, state = backbone(asked.net, asked.size, asked.work)
    every = Photographs(photographs(asked.tar, asked.work), start, asked.work)
    train, test = every.of(list(range(0, 100, 100 // asked.classes))[: asked.classes])
    models = asked.work / f"equal-{asked.net}-{asked.size}-{asked.classes}"
    models.mkdir(parents=True, exist_ok=True)
    names = ["unpruned", *(f"{of}-{share:g}" for share in asked.shares for of in ("latency", "macs"))]
    if missing := [name for name in names if not (models / f"{name}.npy").exists()]:
        original = Original.create(start, state, asked.classes)
        whole = original.copy()
        solve_head(whole, original.classifier, train)
        scores = score("obs", original.structure, whole, original.full, train)
        cost = Milliseconds(original.structure, profile)
        for name in missing:
            of, _, share = name.partition("-")
            model = whole
            if share:
                counts = (by_time if of == "latency" else by_macs)(original.structure, cost, scores, float(share))
                plan = keep_best(original.structure, scores, counts)
                model = original.pruned(plan)
                skip = [f"{layer}.weight" for layer in original.classifier]
                reconstruct(original.model, original.structure, plan, model, train, skip=skip)
                solve_head(model, original.classifier, train)
                facts = {"predicted_ms": cost.total(counts), "macs": original.cost(plan).macs}
            else:
                facts = {"predicted_ms": cost.total({}), "macs": original.cost().macs}
            export_onnx(model, torch.zeros(1, 3, asked.size, asked.size), models / f"{name}.onnx", facts)
            write_text(models / f"{name}.json", json.dumps(facts))
            np.save(models / f"{name}.npy", right(model, test))
            print(f"{name}: {np.load(models / f'{name}.npy').mean():.1%}", flush=True)
    settings = Settings(duration=6.0)
    runtime = profile.conditions.runtime
    rounds = [Round([(models / f"{name}.onnx", runtime, "cpu") for name in names], 1, None)]
    found = looks(rounds, settings, profile.conditions.threads, Console())
    timings = [timing(sessions, 1, settings) for sessions in zip(*(look.sessions[0] for look in found), strict=True)]
    hits = {name: np.load(models / f"{name}.npy") for name in names}
    cells = []
    for name, took in zip(names, timings, strict=True):
        facts = json.loads((models / f"{name}.json").read_text(encoding="utf-8"))
        cells.append({"name": name, "ms": asdict(took.median), "accuracy": float(hits[name].mean()), **facts})
        print(f"{name}: {took.median.value:.3f} ms, {hits[name].mean():.1%}, {facts['macs'] / 1e6:.1f} MMACs")
    pairs = {
        f"{share:g}": asdict(paired_change(hits[f"macs-{share:g}"], hits[f"latency-{share:g}"]))
        for share in asked.shares
    }
    result = {"environment": environment(), "profile": str(profile), "models": cells, "latency_over_macs": pairs}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.out, json.dumps(result, indent=1) + "\n")


def by_time(structure: Structure, cost: Milliseconds, scores: dict[str, np.ndarray], share: float) -> dict[str, int]:
    return solve(structure, cost, scores, share * cost.total({}), round_to=8).counts


def by_macs(structure: Structure, cost: Milliseconds, scores: dict[str, np.ndarray], share: float) -> dict[str, int]:
    """The plan of the largest budget of MACs that the profile predicts to take no more than the share of the time."""
    low, high = 0.05, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        fits = cost.total(cheapest(structure, Budget(middle, "macs"), scores)) <= share * cost.total({})
        low, high = (middle, high) if fits else (low, middle)
    return cheapest(structure, Budget(low, "macs"), scores)


@torch.no_grad()
def right(model: torch.nn.Module, test: Images) -> np.ndarray:
    """For each held-out photograph, whether its class is found."""
    return np.concatenate([(model(x).argmax(1) == y).numpy() for x, y in test.batches(128)])


if __name__ == "__main__":
    main()
