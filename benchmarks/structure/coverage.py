"""Does the structure analysis hold for all of timm? One process per model, resumable.

    python benchmarks/structure/coverage.py                  # the models without a result yet
    python benchmarks/structure/coverage.py --again xcit_nano_12_p16_224
    python benchmarks/structure/coverage.py --onnx           # adds export and parity to results that lack them

Results go to benchmarks/structure/results/coverage.json, the table to docs/structure-coverage.md.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/mvp_deploy/structure"), str(Path(__file__).parent)]

from models import MODELS, build  # noqa: E402
from processes import peak_memory_mb, run_each  # noqa: E402
from reference import random_plan, randomise, relative_error, silenced  # noqa: E402

from mvp_deploy.structure import KeepPlan, Structure, analyze, prune  # noqa: E402

RESULTS = Path(__file__).parent / "results/coverage.json"
PLANS = 3


def measure(name: str, onnx: bool = False) -> dict[str, Any]:
    """Everything the benchmark wants to know about one model."""
    model, images = build(name)
    randomise(model)
    before = peak_memory_mb()
    start = time.perf_counter()
    structure = analyze(model, images[:1])
    result: dict[str, Any] = {
        "image_size": images.shape[-1],
        "params": structure.cost().params,
        "macs": structure.cost().macs,
        "analysis_s": time.perf_counter() - start,
        "groups": dict(Counter(g.kind for g in structure.groups)),
        "units": sum(g.size for g in structure.groups),
        "unknown": dict(structure.unknown),
        **_prunable(model, structure),
    }
    errors, effects, seconds = [], [], []
    for seed in range(PLANS):
        plan = random_plan(structure, seed)
        start = time.perf_counter()
        small = prune(structure, model, plan, check=False)  # compared below
        seconds.append(time.perf_counter() - start)
        with torch.no_grad():
            got, full = small.eval()(images), model(images)
            wanted = silenced(model, structure.tensor_masks(plan), images)(images)
        errors.append(relative_error(got, wanted))
        effects.append(relative_error(wanted, full))
        params = sum(p.numel() for p in small.parameters())
        if structure.cost(plan).params != params:
            raise ValueError(f"cost says {structure.cost(plan).params} parameters, the model has {params}")
    result |= {
        "form": "graph" if isinstance(small, torch.fx.GraphModule) else "eager",
        "why_graph": getattr(small, "why", ""),
        "errors": errors,
        "effect": min(effects),
        "surgery_s": max(seconds),
        "macs_agree": analyze(small, images[:1]).cost().macs == structure.cost(plan).macs,
        "reloads": _reloads(structure, model, plan, small, images),
        "trains": _trains(small, images),
        "peak_mb": peak_memory_mb() - before,
    }
    if onnx:
        result |= _onnx_or_why(small, images)
    return result


def _prunable(model: nn.Module, structure: Structure) -> dict[str, Any]:
    """Share of the body's weights that some unit group can shrink, and what froze the others."""
    heads = model.get_classifier()
    heads = heads if isinstance(heads, (tuple, list)) else [heads]
    head = {id(p) for h in heads if isinstance(h, nn.Module) for p in h.parameters()}
    body = {n: p.numel() for n, p in model.named_parameters() if id(p) not in head}
    free = {m.tensor for group in structure.groups for m in group.members}
    why: Counter[str] = Counter()
    for frozen in structure.frozen:
        if frozen.member.tensor in body and frozen.member.tensor not in free:
            why[" | ".join(frozen.why)] += body[frozen.member.tensor]
    share = sum(n for name, n in body.items() if name in free) / sum(body.values())
    return {"prunable": share, "frozen_by": dict(why.most_common(8))}


def _reloads(structure: Structure, model: nn.Module, plan: KeepPlan, small: nn.Module, images: Tensor) -> bool:
    """Saved as safetensors and loaded into a model cut afresh from other weights, it computes the same bits."""
    from safetensors.torch import load_model, save_model

    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data = torch.zeros_like(parameter)
    fresh = prune(structure, other, plan)
    with tempfile.TemporaryDirectory() as folder:
        save_model(small, f"{folder}/small.safetensors")
        load_model(fresh, f"{folder}/small.safetensors")
    with torch.no_grad():
        return relative_error(fresh.eval()(images), small.eval()(images)) == 0


def _trains(small: nn.Module, images: Tensor) -> bool:
    """One step in training mode moves the weights, finitely."""
    small = copy.deepcopy(small).train()
    before = [p.detach().clone() for p in small.parameters()]
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    out = [t for t in torch.utils._pytree.tree_leaves(small(images)) if isinstance(t, Tensor)]
    sum(t.float().square().mean() for t in out).backward()
    torch.nn.utils.clip_grad_norm_(small.parameters(), 1.0)
    optimizer.step()
    moved = sum(not torch.equal(p, q) for p, q in zip(small.parameters(), before, strict=True))
    return moved > 0 and all(bool(p.isfinite().all()) for p in small.parameters())


def _onnx_or_why(small: nn.Module, images: Tensor) -> dict[str, Any]:
    """What cannot be exported costs no other measure; its error is infinite."""
    try:
        return _onnx(small, images)
    except Exception as error:
        return {"onnx_error": float("inf"), "onnx_failed": f"{type(error).__name__}: {error}"[:300]}


def _onnx(small: nn.Module, images: Tensor) -> dict[str, Any]:
    from mvp_deploy.exporters.onnx import INPUT, export_onnx
    from mvp_deploy.exporters.session import open_session

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.onnx")
        export_onnx(small.eval(), images, path, {})
        (got,) = open_session(path).run(None, {INPUT: images.numpy()})
    with torch.no_grad():
        wanted = small(images)
    return {"onnx_error": relative_error(torch.from_numpy(got), wanted), "onnx_s": time.perf_counter() - start}


@click.command()
@click.argument("models", nargs=-1)
@click.option("--again", is_flag=True, help="Also the models that have a result.")
@click.option("--onnx", is_flag=True, help="Export each smaller model and compare in ONNX Runtime (slow).")
@click.option("--limit", default=600, show_default=True, help="Seconds per model.")
def main(models: tuple[str, ...], again: bool, onnx: bool, limit: int) -> None:
    results = run_each(
        f"{__file__}", models or MODELS, RESULTS, limit, again, ["--onnx"] if onnx else [],
        complete=lambda r: not onnx or "onnx_error" in r,
    )  # fmt: skip
    from coverage_table import write_table

    write_table(results, ROOT / "docs/structure-coverage.md")


if __name__ == "__main__":
    if "--child" in sys.argv:
        from processes import child

        child(lambda name, flags: measure(name, onnx="--onnx" in flags))
    else:
        main()
