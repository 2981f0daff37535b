"""Beside Torch-Pruning 1.6.1: what each handles of timm, exactly or not, how much of it, in what time and memory.

    pip install torch-pruning==1.6.1
    python benchmarks/structure/compare_torch_pruning.py

Half of every unit group goes. Torch-Pruning gets the best of three settings per model: whole heads, positions in all
heads, and attention left alone (MLPs and convolutions only). Sizes that timm's attention keeps as attributes are set
for it afterwards, as its own examples do, and every run gets fresh dictionaries (its default ones are shared between
pruners). Each side may take half a minute per model and setting; a setting that makes no difference to the model is
left out, and so are positions in all heads where whole heads, which are traced alike, find no end. What was removed is
read off the smaller weights, so both are held against the same reference (tests/mvp_deploy/structure/reference.py).

Results go to benchmarks/structure/results/torch_pruning.json, the table to docs/structure-comparison.md.
"""

from __future__ import annotations

import copy
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/mvp_deploy/structure"), str(Path(__file__).parent)]

from comparison_table import no_end, write_table  # noqa: E402
from models import MODELS, build  # noqa: E402
from processes import child, memory_mb, reset_peak_memory, run_each  # noqa: E402
from reference import Masks, randomise, relative_error, silenced  # noqa: E402

from mvp_deploy.structure import KeepPlan, analyze, prune  # noqa: E402

RESULTS = Path(__file__).parent / "results/torch_pruning.json"
SECONDS = 30
KEEP = 0.5

_ORDER: dict[str, np.ndarray] = {}  # per parameter, its values' order: slow to find for each setting anew


def prune_ours(model: nn.Module, images: Tensor) -> nn.Module:
    structure = analyze(model, images[:1])
    masks = {g.name: np.arange(g.size) % 2 == 0 for g in structure.groups}
    return prune(structure, model, KeepPlan(masks), check=False)


def prune_theirs(setting: str) -> Callable[[nn.Module, Tensor], nn.Module]:
    def prune(model: nn.Module, images: Tensor) -> nn.Module:
        import torch_pruning as tp

        model = copy.deepcopy(model)  # it works in place
        heads = _fused_projections(model)
        ignored = _classifiers(model)
        if setting == "no attention":
            ignored += _attention(model)
            heads = {}
        pruner = tp.pruner.BasePruner(
            model,
            images[:1],
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=1 - KEEP,
            ignored_layers=ignored,
            in_channel_groups={},
            out_channel_groups={},
            channel_groups={},
            num_heads=dict(heads),
            prune_num_heads=setting == "heads",
            prune_head_dims=setting == "head sizes",
            head_pruning_ratio=1 - KEEP,
        )
        pruner.step()
        for module in model.modules():
            if getattr(module, "qkv", None) in heads:
                module.num_heads = pruner.num_heads[module.qkv]
                module.head_dim = module.qkv.out_features // (3 * module.num_heads)
                module.attn_dim = module.num_heads * module.head_dim
        return model

    return prune


def _fused_projections(model: nn.Module) -> dict[nn.Module, int]:
    """timm's fused qkv layers and their number of heads, which Torch-Pruning must be told."""
    return {
        m.qkv: m.num_heads
        for m in model.modules()
        if isinstance(getattr(m, "qkv", None), nn.Linear) and isinstance(getattr(m, "num_heads", None), int)
    }


def _attention(model: nn.Module) -> list[nn.Module]:
    return [m for name, m in model.named_modules() if re.search(r"(^|\.)\w*attn\w*(\.|$)", name)]


def _classifiers(model: nn.Module) -> list[nn.Module]:
    found = model.get_classifier()
    return [m for m in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(m, nn.Module)]


def measure(name: str) -> dict[str, Any]:
    """Both on one model: {"ours": …, "theirs": the best setting's …, "settings": all of theirs}."""
    model, images = build(name)
    _make_distinct(randomise(model))
    _warm_up()
    ours = _measured(prune_ours, model, images)
    theirs: dict[str, dict[str, Any]] = {}
    theirs["heads"] = _measured(prune_theirs("heads"), model, images)
    if _fused_projections(model) and not no_end(theirs["heads"]):
        theirs["head sizes"] = _measured(prune_theirs("head sizes"), model, images)
    if _attention(model):
        theirs["no attention"] = _measured(prune_theirs("no attention"), model, images)
    best = max(theirs.values(), key=lambda r: (r.get("error", 1) < 1e-5, r.get("prunable", 0)))
    return {"ours": ours, "theirs": best, "settings": theirs}


def _make_distinct(model: nn.Module) -> None:
    """Draw again where a parameter has the same value twice, so that its values say what was kept of it."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        flat = parameter.data.view(-1)
        while len(flat) > 1:
            values, order = flat.sort()
            twice = order[1:][values[1:] == values[:-1]]
            if not len(twice):
                break
            flat[twice] += 0.1 * flat.std().clamp(min=1e-3) * torch.randn(len(twice), generator=generator)


def _warm_up() -> None:
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    tiny.get_classifier = lambda: tiny[2]  # type: ignore[assignment]
    for cut in (prune_ours, prune_theirs("heads")):
        cut(tiny, torch.zeros(1, 3, 8, 8))


def _measured(prune: Callable[[nn.Module, Tensor], nn.Module], model: nn.Module, images: Tensor) -> dict[str, Any]:
    reset_peak_memory()
    before = memory_mb("VmRSS")
    start = time.perf_counter()
    try:
        with time_limit(SECONDS):
            small = prune(model, images)
        seconds = time.perf_counter() - start
        peak = memory_mb("VmHWM") - before
        with torch.no_grad():
            got = small.eval()(images)
        masks = kept_positions(model, small)
        with torch.no_grad():
            wanted = silenced(model, masks, images)(images)
        return {
            "seconds": seconds,
            "peak_mb": peak,
            "error": relative_error(got, wanted),
            "prunable": _share(model, masks),
            "params_left": sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters()),
        }
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300], "seconds": time.perf_counter() - start}


def kept_positions(model: nn.Module, small: nn.Module) -> dict[str, Masks]:
    """Per tensor and dimension the positions of `model` that `small` still has, found by their values.

    Raises:
        ValueError: the smaller model's weights are not the larger one's, or lie in another order.
    """
    out = {}
    smaller = dict(small.named_parameters())
    for name, parameter in model.named_parameters():
        full, part = parameter.detach().numpy(), smaller[name].detach().numpy()
        if full.shape == part.shape:
            if not np.array_equal(full, part):
                raise ValueError(f"{name} was permuted or changed")
            continue
        if name not in _ORDER:
            _ORDER[name] = full.argsort(axis=None)
        order = _ORDER[name]
        found = order[np.searchsorted(full.ravel()[order], part.ravel()).clip(max=len(order) - 1)]
        indices = [np.flatnonzero(np.bincount(i)) for i in np.unravel_index(found, full.shape)]
        if not np.array_equal(full[np.ix_(*indices)], part):
            raise ValueError(f"{name} was permuted or changed")
        out[name] = [
            None if len(kept) == size else np.isin(np.arange(size), kept)
            for kept, size in zip(indices, full.shape, strict=True)
        ]
    return out


def _share(model: nn.Module, masks: dict[str, Masks]) -> float:
    head = {id(p) for m in _classifiers(model) for p in m.parameters()}
    body = {n: p.numel() for n, p in model.named_parameters() if id(p) not in head}
    return sum(n for name, n in body.items() if name in masks) / sum(body.values())


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@click.command()
@click.argument("models", nargs=-1)
@click.option("--again", is_flag=True, help="Also the models that have a result.")
def main(models: tuple[str, ...], again: bool) -> None:
    results = run_each(__file__, models or MODELS, RESULTS, limit=8 * SECONDS, again=again)
    how = (__doc__ or "").split("\n\n", 2)[2].split("Results go to")[0]
    write_table(results, ROOT / "docs/structure-comparison.md", how, SECONDS)


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(lambda name, _: measure(name))
    else:
        main()
