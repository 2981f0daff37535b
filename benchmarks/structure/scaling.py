"""Analysis time against the size of the graph: it should grow linearly with the number of operators.

    python benchmarks/structure/scaling.py

Results go to benchmarks/structure/results/scaling.json, the table to the console.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from mvp_deploy.files import atomic_write
from mvp_deploy.structure import KeepPlan, analyze
from mvp_deploy.timm_import import timm

RUNS = 5
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{f"vit_tiny, {n} blocks": ("vit_tiny_patch16_224", {"depth": n}) for n in (3, 6, 12, 24, 48)},
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
    analysis, surgery = [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        structure = analyze(model, images)
        analysis.append(time.perf_counter() - start)
        plan = KeepPlan({g.name: np.arange(g.size) % 2 == 0 for g in structure.groups})
        start = time.perf_counter()
        structure.prune(model, plan)
        surgery.append(time.perf_counter() - start)
    return {"operators": operators.count, "analysis_s": min(analysis), "surgery_s": min(surgery)}


def main() -> None:
    torch.set_num_threads(2)
    results = {}
    for name, (architecture, more) in MODELS.items():
        results[name] = measure(timm().create_model(architecture, **more).eval())
        per_thousand = 1000 * results[name]["analysis_s"] / results[name]["operators"]
        print(name, results[name], f"{per_thousand:.2f} s per 1000 operators", flush=True)
    machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 2}
    with atomic_write(Path(__file__).parent / "results/scaling.json") as path:
        path.write_text(json.dumps({"machine": machine, "models": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
