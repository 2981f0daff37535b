"""Does a model cut to 30 % live on like any other? bfloat16, channels_last, torch.compile.

    python benchmarks/structure/survival.py                       # half of the models, those without a result yet
    python benchmarks/structure/survival.py --backend aot_eager   # compiled without a C++ compiler, in less time

Every second model of models.py, its smaller version in either form. Results go to
benchmarks/structure/results/survival.json; coverage.py, run afterwards, puts them into docs/structure-coverage.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/mvp_deploy/structure"), str(Path(__file__).parent)]

from models import MODELS, build  # noqa: E402
from processes import child, run_each  # noqa: E402
from reference import randomise, relative_error  # noqa: E402

from mvp_deploy.structure import KeepPlan, analyze, prune  # noqa: E402

RESULTS = Path(__file__).parent / "results/survival.json"
HALF = MODELS[::2]
KEEP = 0.3


def measure(name: str, backend: str) -> dict[str, Any]:
    """Relative errors of the smaller model against itself in float32, contiguous, eager."""
    model, images = build(name)
    randomise(model)
    structure = analyze(model, images[:1])
    rng = np.random.default_rng(0)
    masks = {g.name: np.arange(g.size) < max(1, round(KEEP * g.size)) for g in structure.groups}
    small = prune(structure, model, KeepPlan({n: rng.permutation(m) for n, m in masks.items()})).eval()
    with torch.no_grad():
        wanted, full = small(images), model(images)
        result = {"form": "graph" if isinstance(small, torch.fx.GraphModule) else "eager", "backend": backend}
        result["channels_last"] = _error(small, images, wanted, memory_format=torch.channels_last)
        small.to(memory_format=torch.contiguous_format)
        compiled = torch.compile(small, backend=backend)
        result["compiled"] = relative_error(compiled(images), wanted)
        result["bfloat16"] = _error(small, images, wanted, dtype=torch.bfloat16)
        small.float()
        result["and_back"] = relative_error(small(images), wanted)
        result["full_bfloat16"] = _error(model, images, full, dtype=torch.bfloat16)
    return result


def _error(model: nn.Module, images: Tensor, wanted: Any, **how: Any) -> float:
    """The error of `model` moved `how`; infinite where it does not run so."""
    try:
        got = model.to(**how)(images.to(**how))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return float("inf")
    return relative_error(torch.utils._pytree.tree_map(lambda t: t.float(), got), wanted)


def survives(result: dict[str, Any]) -> bool:
    """Whether errors are rounding only: bfloat16 may do to the smaller model what it does to the full one."""
    return (
        "failed" not in result
        and max(result["channels_last"], result["compiled"]) < 1e-4
        and max(result["bfloat16"], result["and_back"]) < max(0.1, 3 * result["full_bfloat16"])
    )


@click.command()
@click.argument("models", nargs=-1)
@click.option("--again", is_flag=True, help="Also the models that have a result.")
@click.option("--backend", default="inductor", show_default=True, help="Of torch.compile.")
@click.option("--limit", default=600, show_default=True, help="Processor seconds per model.")
def main(models: tuple[str, ...], again: bool, backend: str, limit: int) -> None:
    results = run_each(__file__, models or HALF, RESULTS, limit, again, [backend])
    lost = [name for name in HALF if name in results and not survives(results[name])]
    print(f"{len(results) - len(lost)} of {len(results)} survive", *lost)


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(lambda name, flags: measure(name, flags[0]))
    else:
        main()
