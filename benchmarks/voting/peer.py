"""Beside Torch-Pruning's group Taylor: the same backbone, task, share of units and steps, the same loop and runtime.

    python benchmarks/voting/peer.py disjoint resnet --data FOLDER --work WORK [--keep 0.3] [--threads 2]

Torch-Pruning 1.6.1 (pip install torch-pruning) prunes the backbone under the same solved head, by the same eight
batches' gradients, every group to the same share, in multiples of eight. Both then get batch-norm statistics, a solved
head, the fine-tuning of the study and its end, and are timed in turns in ONNX Runtime beside the unpruned model.
"""

from __future__ import annotations

import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch_pruning as tp
from options import Place, study
from prepare import bank, training
from run import RESULTS
from torch import nn
from torch.nn import functional

from mvp_deploy.bank.trial import Trials
from mvp_deploy.benchmark.compare import Candidate, benchmark
from mvp_deploy.benchmark.measure import Settings
from mvp_deploy.benchmark.statistics import mean_interval
from mvp_deploy.cli._common import Console
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.head import finish, recalibrate, solve_head
from mvp_deploy.pruning.recipes import recipe_named
from mvp_deploy.training import TrainConfig, accuracy, fit

ROUND_TO = 8


def torch_pruning(task: Trials, keep: float, config: TrainConfig) -> tuple[nn.Module, float]:
    """Torch-Pruning's smaller model, fine-tuned, and the seconds it took."""
    begun = time.perf_counter()
    original = task.original
    model = original.copy()
    solve_head(model, original.classifier, task.train)
    fused = {m.qkv: m.num_heads for m in model.modules() if isinstance(getattr(m, "qkv", None), nn.Linear)}
    example = torch.zeros(1, *original.backbone.preprocessing.input_size, device=original.device)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=1 - keep,
        round_to=ROUND_TO,
        ignored_layers=[model.get_submodule(name) for name in original.classifier],
        num_heads=fused,
        prune_num_heads=bool(fused),
        head_pruning_ratio=1 - keep,
    )
    generator = torch.Generator().manual_seed(config.seed)
    for x, y in islice(task.train.batches(64, shuffle=True, generator=generator), 8):
        functional.cross_entropy(model(x), y).backward()
    pruner.step()
    model.zero_grad()
    for module in model.modules():
        if getattr(module, "qkv", None) in fused:
            module.num_heads = pruner.num_heads[module.qkv]
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
            module.attn_dim = module.num_heads * module.head_dim
    recalibrate(model, task.train, seed=config.seed)
    solve_head(model, original.classifier, task.train)
    fit(model, task.train, config)
    finish(model, original.classifier, task.train, config)
    return model, time.perf_counter() - begun


def ours(task: Trials, keep: float, recipe: str, config: TrainConfig) -> tuple[nn.Module, float]:
    """The recipe's smaller model, fine-tuned, and the seconds it took, neighbours and votes included."""
    begun = time.perf_counter()
    model = task.make(recipe_named(recipe), Budget(keep, "units", round_to=ROUND_TO), config.seed).model
    fit(model, task.train, config)
    finish(model, task.original.classifier, task.train, config)
    return model, time.perf_counter() - begun


def latency(models: dict[str, nn.Module], task: Trials, threads: int) -> dict[str, Any]:
    """In ONNX Runtime, in turns, the first as the baseline: name -> batch -> median and speed-up."""
    with tempfile.TemporaryDirectory() as folder:
        example = torch.zeros(2, *task.original.backbone.preprocessing.input_size)
        files = [export_onnx(model, example, Path(folder, f"{name}.onnx"), {}) for name, model in models.items()]
        candidates = [Candidate(name, "fp32", file, "onnxruntime", 0) for name, file in zip(models, files, strict=True)]
        done = benchmark(
            candidates, (1, 32), Settings(duration=4.0), threads=threads, device="cpu", reporter=Console(quiet=True)
        ).to_json()
    return {
        f"{row['model']} at batch {row['batch']}": {"p50_ms": row["timing"]["p50"], "speed_up": row["speed_up"]}
        for row in done["rows"]
    } | {"environment": done["environment"]}


@click.command()
@study
@click.option("--keep", default=0.3, show_default=True)
@click.option("--recipe", default="default", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--targets", "most", type=int, help="Only so many.")
def main(place: Place, keep: float, recipe: str, seeds: int, most: int | None) -> None:
    chosen, net = place.setting, place.net
    store = bank(chosen, net, keep, place.work, place.device)
    found: dict[str, list[dict[str, float]]] = {"ours": [], "torch-pruning": []}
    timed: dict[str, Any] = {}
    for task in chosen.targets[:most]:
        new = Trials.of(task, store, place.device)
        for seed in range(seeds):
            config = training(store.backbone, chosen, seed=seed)
            models = {"unpruned": new.original.copy()}
            for name, (model, seconds) in (
                ("ours", ours(new, keep, recipe, config)),
                ("torch-pruning", torch_pruning(new, keep, config)),
            ):
                models[name] = model
                size = sum(p.numel() for p in model.parameters())
                found[name].append({"accuracy": accuracy(model, new.test), "seconds": seconds, "params": size})
            timed = timed or latency(models, new, torch.get_num_threads())
        print(task.name, {name: round(float(np.mean([c["accuracy"] for c in v])), 4) for name, v in found.items()})
    means = {name: {key: float(np.mean([c[key] for c in v])) for key in v[0]} for name, v in found.items()}
    pairs = [[c["accuracy"] for c in found[name]] for name in ("ours", "torch-pruning")]
    difference = (np.array(pairs[0]) - np.array(pairs[1])).reshape(-1, seeds).mean(1)
    apart = mean_interval(difference)
    result = {
        "setting": chosen.name,
        "net": net,
        "keep": keep,
        "recipe": recipe,
        "targets": len(difference),
        "seeds": seeds,
        "means": means,
        "accuracy_difference": {"mean": apart.value, "low": apart.low, "high": apart.high},
        "latency": timed,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"peer-{chosen.name}-{net}-{keep}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["means"]), json.dumps(result["accuracy_difference"]))


if __name__ == "__main__":
    main()
