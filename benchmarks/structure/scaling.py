"""Time of analysis and surgery against the size of the model, beside torch.export's, and the memory of surgery.

    python benchmarks/structure/scaling.py

Analysis should grow linearly with the number of operators, and surgery should hold less than the model once more.
Results go to benchmarks/structure/results/scaling.json and docs/structure-scaling.md.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from processes import memory_mb, reset_peak_memory  # noqa: E402

from mvp_deploy.backbones.timm_import import timm  # noqa: E402
from mvp_deploy.base.files import atomic_write  # noqa: E402
from mvp_deploy.structure import KeepPlan, analyze, prune  # noqa: E402

RUNS = 5
THREADS = 1
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{f"vit_tiny, {n} blocks": ("vit_tiny_patch16_224", {"depth": n}) for n in (3, 6, 12, 24, 48)},
    "vit_base": ("vit_base_patch16_224", {}),
}


class CountOperators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def measure(model: nn.Module) -> dict[str, Any]:
    images = torch.zeros(1, 3, 224, 224)
    with torch.no_grad(), CountOperators() as operators:
        model(images)
    structure = analyze(model, images)
    plan = KeepPlan({g.name: np.arange(g.size) % 2 == 0 for g in structure.groups})
    reset_peak_memory()
    before = memory_mb("VmRSS")
    prune(structure, model, plan, check=False)
    return {
        "operators": operators.count,
        "model_mb": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20,
        "surgery_peak_mb": memory_mb("VmHWM") - before,
        "analysis_s": fastest(lambda: analyze(model, images)),
        "surgery_s": fastest(lambda: prune(structure, model, plan, check=False)),
        "export_s": fastest(lambda: export(model, images)),
    }


def export(model: nn.Module, images: Tensor) -> None:
    torch.export.export(model, (images,), strict=False)


def fastest(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def write_table(results: dict[str, Any], path: Path) -> None:
    machine = results["machine"]
    lines = [
        "# How time and memory grow",
        "",
        f"Made by `python benchmarks/structure/scaling.py` on {machine['cpu']}, {machine['threads']} thread, torch",
        f"{machine['torch']}, float32, 224 pixels, half of every group removed: the fastest of {RUNS} runs.",
        "*Peak*: memory that surgery takes beyond the model's own.",
        "",
        "| model | operators | analysis s | per 1000 operators | surgery s | torch.export s | model MB | peak MB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
        *(
            f"| {name} | {r['operators']} | {r['analysis_s']:.2f} | {1000 * r['analysis_s'] / r['operators']:.2f} "
            f"| {r['surgery_s']:.2f} | {r['export_s']:.2f} | {r['model_mb']:.0f} | {r['surgery_peak_mb']:.0f} |"
            for name, r in results["models"].items()
        ),
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def main() -> None:
    torch.set_num_threads(THREADS)
    found = {}
    for name, (architecture, more) in MODELS.items():
        found[name] = measure(timm().create_model(architecture, **more).eval())
        print(name, found[name], flush=True)
    machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": THREADS}
    results = {"machine": machine, "models": found}
    with atomic_write(Path(__file__).parent / "results/scaling.json") as path:
        path.write_text(json.dumps(results, indent=1) + "\n")
    write_table(results, ROOT / "docs/structure-scaling.md")


if __name__ == "__main__":
    main()
