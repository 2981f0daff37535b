"""What pruning costs: seconds and memory of three things, to be measured on a machine that does nothing else.

    python benchmarks/pretrained/cost.py --tar caltech101_160.tar --work WORK [--threads 2] [--only lite2]

lite2: re-solving lite2 at 128 px, 45 % of the MACs, on 256 photographs. resnet50: the same at 224 px with random
weights and half the MACs, whose widest 3x3 convolutions read 4,608 columns. command: `mvp-deploy prune` without a bank
from 3,398 photographs of 100 classes to a pruned lite2 at 128 px, nothing tuned, images decoded included. Each runs in
a process of its own; results/cost.json has its seconds, and how much more memory it held at most than before.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import torch
from prepare import Photographs, architecture, backbone, photographs, weights

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone
from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.pruning.budget import Budget, counts_for, keep_best, uniform
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.reconstruction import reconstruct

RESULTS = Path(__file__).parent / "results"
MIB = 1 << 10  # of ru_maxrss, which Linux counts in KiB


def lite2(tar: Path, work: Path) -> dict[str, float]:
    return re_solved(*backbone("lite2", 128, work), 0.45, tar, work)


def resnet50(tar: Path, work: Path) -> dict[str, float]:
    return re_solved(*backbones.create("resnet50", image_size=224), 0.5, tar, work)


def re_solved(
    made: Backbone, state: Mapping[str, torch.Tensor], fraction: float, tar: Path, work: Path
) -> dict[str, float]:
    """Cut the same share of every group, and time the re-solving alone."""
    shown = Photographs(photographs(tar, work), made, work)
    train, _ = shown.of(np.linspace(0, 99, 12).round().astype(int).tolist())
    original = Original.create(made, state, 12)
    budget = Budget(fraction, "macs")
    plan = keep_best(original.structure, {}, counts_for(original.structure, budget, uniform(original.structure)))
    model = original.pruned(plan)
    before, begun, busy = peak(), time.perf_counter(), time.process_time()
    heads = [f"{name}.weight" for name in original.classifier]
    done = reconstruct(original.model, original.structure, plan, model, train, skip=heads)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - busy
    return {"seconds": seconds, "cpu_seconds": cpu, "more_mib": peak() - before, "images": done.images,
            "layers": len(done.layers)}  # fmt: skip


def command(tar: Path, work: Path) -> dict[str, float]:
    folder = photographs(tar, work)
    with tempfile.TemporaryDirectory() as out:
        asked = ["prune", str(folder), "--backbone", architecture("lite2"), "--weights", str(weights("lite2", work)),
                 "--image-size", "128", "--macs", "0.45", "--steps", "0", "--out", f"{out}/run",
                 "--device", "cpu"]  # fmt: skip
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mvp_deploy", *asked], check=True)
        seconds = time.perf_counter() - begun
        info = json.loads(Path(out, "run", "run.json").read_text(encoding="utf-8"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {name: info["metrics"][name]["accuracy"] for name in ("unpruned", "pruned")}
    return {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / MIB} | told


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


MEASURED: Mapping[str, Callable[[Path, Path], dict[str, float]]] = {
    "lite2": lite2,
    "resnet50": resnet50,
    "command": command,
}


@click.command()
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--only", type=click.Choice(list(MEASURED)), help="Measure this one in this process, and print it.")
def main(tar: Path, work: Path, threads: int, only: str | None) -> None:
    if only:
        torch.set_num_threads(threads)
        print(json.dumps(MEASURED[only](tar, work)))
        return
    found = {}
    for name in MEASURED:
        asked = [sys.executable, __file__, "--tar", str(tar), "--work", str(work), "--threads", str(threads)]
        done = subprocess.run([*asked, "--only", name], check=True, capture_output=True, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
    told = {"threads": threads, "measured": found, "environment": environment()}
    RESULTS.mkdir(exist_ok=True)
    write_text(RESULTS / "cost.json", json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
