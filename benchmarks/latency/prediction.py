"""Predicted against measured milliseconds of models that were never profiled.

For each net, a profile is measured; then models of plans that it has not seen are timed: half with random widths, half
as a budget of MACs cuts them by weight magnitude. All ONNX files are made first, which no noise can spoil
(``--prepare``); then the timing needs nothing but a quiet machine, about two minutes for each net and runtime. Killed
and called again, it goes on with what is missing.

    python benchmarks/latency/prediction.py --work WORK --prepare
    python benchmarks/latency/prediction.py --work WORK --out benchmarks/latency/results/prediction.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from mvp_deploy import backbones
from mvp_deploy.base.environment import environment, other_work
from mvp_deploy.base.files import write_text
from mvp_deploy.benchmark.measure import Settings, session
from mvp_deploy.benchmark.runner import open_runner
from mvp_deploy.cli._common import Console
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.latency import files, pieces
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.format import Conditions
from mvp_deploy.latency.measure import measure
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.structure import KeepPlan, Structure, analyze

CLASSES = 100
ROUNDS = 3
NAMES = {"lite0": "tf_efficientnet_lite0", "lite2": "tf_efficientnet_lite2", "vit_tiny": "vit_tiny_patch16_224"}
WINDOWS = Settings(duration=1.0, processes=2, window=0.1, warm_up=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--nets", default="lite0@128,resnet18@128")
    parser.add_argument("--runtimes", default="onnxruntime")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int8"])
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--prepare", action="store_true", help="only make the files")
    asked = parser.parse_args()
    found = []
    for text in asked.nets.split(","):
        net = Net(text, asked.work, asked.precision, asked.plans)
        net.prepare()
        for runtime in () if asked.prepare else asked.runtimes.split(","):
            found.append(net.study(runtime))
            print(f"{text} {runtime}: median error {found[-1]['median']:.1%}, worst {found[-1]['worst']:.1%}")
            if asked.out:
                asked.out.parent.mkdir(parents=True, exist_ok=True)
                write_text(asked.out, json.dumps({"environment": environment(), "studies": found}, indent=1) + "\n")


class Net:
    """One net at one image size, with its pieces and its plans' models in a work folder."""

    def __init__(self, text: str, work: Path, precision: str, plans: int) -> None:
        name, _, size = text.partition("@")
        self.text, self.precision, self.plans = text, precision, plans
        self.name, self.size = NAMES.get(name, name), (3, int(size), int(size))
        self.folder = work / f"{text}-{precision}"
        self.backbone, self.state = backbones.create(self.name, image_size=int(size))

    def model(self, classes: int) -> torch.nn.Module:
        return backbones.build(self.backbone, None, classes)

    def prepare(self) -> None:
        pieces.make(
            self.name, self.model, self.size, self.folder / "pieces", precision=self.precision, reporter=Console()
        )
        full = self.model(CLASSES)
        structure = analyze(full, torch.zeros(1, *self.size))
        for number, counts in enumerate(self.drawn(full, structure)):
            file = self.folder / f"plan-{number:02}.onnx"
            if file.exists():
                continue
            masks = {group.name: np.arange(group.size) < counts[group.name] for group in structure.groups}
            small = structure.prune(full, KeepPlan(masks), check=False)
            fp32 = export_onnx(small, torch.zeros(1, *self.size), self.folder / "fp32.onnx", {})
            made = pieces.converted(fp32, self.precision, "cpu", self.size, self.folder / "other.onnx")
            write_text(self.folder / f"plan-{number:02}.json", json.dumps(counts))
            made.replace(file)
            print(f"{self.text}: plan {number + 1} of {self.plans}", flush=True)

    def drawn(self, full: torch.nn.Module, structure: Structure) -> Iterator[dict[str, int]]:
        """Random widths in multiples of 8, then what budgets of MACs leave."""
        random = self.plans - self.plans // 2
        yield from pieces.draw(structure, random + 6, seed=1)[2:-4]
        scores = score("magnitude", structure, full, KeepPlan.full(structure), _Nothing())
        for fraction in np.linspace(0.25, 0.9, self.plans // 2):
            yield cheapest(structure, Budget(float(fraction), "macs", 8), scores)

    def study(self, runtime: str) -> dict[str, object]:
        conditions = Conditions(runtime)
        kept = self.folder / f"profile-{runtime}.json"
        if not kept.exists():
            (self.folder / "pieces" / "visits.json").unlink(missing_ok=True)  # of another runtime
            write_text(kept, json.dumps(asdict(measure(self.folder / "pieces", conditions, reporter=Console()))))
        profile = files.read(kept)
        structure = analyze(self.model(CLASSES), torch.zeros(1, *self.size))
        cost = Milliseconds(structure, profile)
        batch = np.random.default_rng(0).standard_normal((1, *self.size), np.float32)
        times: list[list[float]] = [[] for _ in range(self.plans)]
        with other_work() as others:
            for turn in range(ROUNDS):
                for number in range(self.plans) if turn % 2 == 0 else reversed(range(self.plans)):
                    with closing(open_runner(self.folder / f"plan-{number:02}.onnx", runtime, threads=1)) as runner:
                        times[number].append(session([runner], batch, WINDOWS)[0].median)
        plans = []
        for number, measured in enumerate(times):
            counts = json.loads((self.folder / f"plan-{number:02}.json").read_text(encoding="utf-8"))
            ms, predicted = float(np.median(measured)), cost.total(counts)
            kind = "random" if number < self.plans - self.plans // 2 else "macs"
            plans.append({"kind": kind, "ms": ms, "predicted": predicted, "error": predicted / ms - 1})
        errors = np.abs([plan["error"] for plan in plans])
        return {
            "net": self.text,
            "runtime": f"{runtime} {profile.version}",
            "precision": self.precision,
            "step": cost.model.step,
            "alignment": cost.model.alignment,
            "unpruned_ms": profile.full_ms,
            "profile_noise": profile.noise,
            "others": others[0] if others else None,
            "median": float(np.median(errors)),
            "worst": float(errors.max()),
            "plans": plans,
        }


class _Nothing:
    """No images: magnitudes need none."""

    def __len__(self) -> int:
        return 1

    def sample(self, *arguments: object) -> Iterator[None]:
        return iter(())


if __name__ == "__main__":
    main()
