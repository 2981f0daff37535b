"""Predicted against measured milliseconds of models that were never profiled.

For each net, a profile is measured; then models of plans that it has not seen are timed in turns: half with random
widths, half as a budget of MACs cuts them by weight magnitude, three as a budget of milliseconds by this profile does,
and the unpruned one. `exponent` says how much of a cut of MACs becomes speed: speed-up = cut ^ exponent. `beside` is
the error less that of the unpruned model: what is left if the machine became faster or slower since it was profiled.

All other ONNX files are made first, which no noise can spoil (``--prepare``); then the timing needs nothing but a quiet
machine, about two minutes for each net and runtime. Studies of other nets, runtimes and precisions stay in the JSON.

    python benchmarks/latency/prediction.py --work WORK --prepare
    python benchmarks/latency/prediction.py --work WORK --out benchmarks/latency/results/prediction.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvp_deploy import backbones
from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.benchmark.looks import Round, busiest, looks
from mvp_deploy.benchmark.measure import Settings, timing
from mvp_deploy.cli._common import Console
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.latency import files, pieces
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.floor import BelowFloor
from mvp_deploy.latency.format import Conditions, Form, Precision, Profile
from mvp_deploy.latency.measure import measure
from mvp_deploy.latency.plan import solve
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.knapsack import cheapest, cost_of
from mvp_deploy.structure import KeepPlan, Structure, analyze, prune

CLASSES = 100
SHARES = (0.75, 0.5, 0.35)  # of the predicted time, that budgets of milliseconds leave
NAMES = {"lite0": "tf_efficientnet_lite0", "lite2": "tf_efficientnet_lite2", "vit_tiny": "vit_tiny_patch16_224"}
WINDOWS = Settings(duration=1.8, processes=9, window=0.1, warm_up=0.1)


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
    for text in asked.nets.split(","):
        for runtime in asked.runtimes.split(","):
            net = Net(text, asked.work, asked.precision, asked.plans, Conditions(runtime))
            net.prepare()
            if asked.prepare:
                continue
            found = net.study()
            print(f"{text} {runtime}: median error {found['median']:.1%}, worst {found['worst']:.1%}", flush=True)
            print("  beside: {median:.1%}, {worst:.1%}".format(**found["beside"]))
            print(
                "  exponents:", ", ".join(f"{each['exponent']:.2f}" for each in found["plans"] if each["kind"] == "ms")
            )
            if asked.out:
                keep(asked.out, found)


def keep(file: Path, found: dict[str, Any]) -> None:
    """Put one study among the others of a file, in place of an older one of the same."""

    def key(study: dict[str, Any]) -> tuple[str, ...]:
        return study["net"], study["runtime"].split()[0], study["precision"]

    studies = json.loads(file.read_text(encoding="utf-8"))["studies"] if file.exists() else []
    studies = sorted([*(each for each in studies if key(each) != key(found)), found], key=key)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"studies": studies}, indent=1) + "\n")


class Net:
    """One net at one image size, with its pieces and its plans' models in a work folder."""

    def __init__(self, text: str, work: Path, precision: Precision, plans: int, conditions: Conditions) -> None:
        name, _, size = text.partition("@")
        self.text, self.precision, self.plans, self.conditions = text, precision, plans, conditions
        self.form: Form = "cpu" if precision == "fp32" else conditions.form
        self.name, self.size = NAMES.get(name, name), (3, int(size), int(size))
        self.folder = work / f"{text}-{precision}{'' if self.form == 'cpu' else f'-{self.form}'}"
        self.backbone, _ = backbones.create(self.name, image_size=int(size))

    def model(self, classes: int) -> torch.nn.Module:
        return backbones.build(self.backbone, None, classes)

    @cached_property
    def full(self) -> torch.nn.Module:
        return self.model(CLASSES)

    @cached_property
    def structure(self) -> Structure:
        return analyze(self.full, torch.zeros(1, *self.size))

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        return score("magnitude", self.structure, self.full, KeepPlan.full(self.structure), _Nothing())

    @property
    def whole(self) -> dict[str, int]:
        return {group.name: group.size for group in self.structure.groups}

    def prepare(self) -> None:
        how = {"precision": self.precision, "form": self.form, "reporter": Console()}
        pieces.make(self.name, self.model, self.size, self.folder / "pieces", **how)
        for number, counts in enumerate(self.drawn()):
            self.made(f"plan-{number:02}", counts)
        self.made("unpruned", self.whole)

    def drawn(self) -> Iterator[dict[str, int]]:
        """Random widths in multiples of 4, 8 and 16, then what budgets of MACs leave."""
        random = self.plans - self.plans // 2
        yield from pieces.draw(self.structure, random + 7, seed=1, precision=self.precision)[2:-5]
        for fraction in np.linspace(0.25, 0.9, self.plans // 2):
            yield cheapest(self.structure, Budget(float(fraction), "macs", 8), self.scores)

    def made(self, name: str, counts: Mapping[str, int]) -> Path:
        """The ONNX file of a plan; one that is there of the same counts stays."""
        file, kept = self.folder / f"{name}.onnx", self.folder / f"{name}.json"
        if not (file.exists() and kept.exists() and json.loads(kept.read_text(encoding="utf-8")) == counts):
            masks = {group.name: np.arange(group.size) < counts[group.name] for group in self.structure.groups}
            small = prune(self.structure, self.full, KeepPlan(masks), check=False)
            fp32 = export_onnx(small, torch.zeros(1, *self.size), self.folder / "fp32.onnx", {})
            pieces.converted(fp32, self.precision, self.form, self.size, self.folder / "other.onnx").replace(file)
            write_text(kept, json.dumps(counts))
            print(f"{self.text}: {name}", flush=True)
        return file

    def profile(self) -> Profile:
        kept = self.folder / f"profile-{self.conditions.runtime}.json"
        if not kept.exists():
            (self.folder / "pieces" / "visits.json").unlink(missing_ok=True)  # of another runtime
            found = measure(self.folder / "pieces", self.conditions, reporter=Console())
            write_text(kept, json.dumps(asdict(found)))
        return files.read(kept)

    def study(self) -> dict[str, Any]:
        profile, runtime = self.profile(), self.conditions.runtime
        cost, macs = Milliseconds(self.structure, profile), cost_of(self.structure, "macs")
        plans = [("unpruned", "unpruned", self.whole)]
        for number, counts in enumerate(self.drawn()):
            plans.append(("random" if number < self.plans - self.plans // 2 else "macs", f"plan-{number:02}", counts))
        for share in SHARES:
            limit, round_to = share * cost.total(self.whole), max(8, cost.model.alignment)
            try:
                found = solve(self.structure, cost, self.scores, limit, round_to=round_to)
            except BelowFloor:
                continue
            plans.append(("ms", f"{runtime}-{share:.0%}".rstrip("%"), found.counts))
        onnx = [self.made(name, counts) for _, name, counts in plans]
        times, others = self.timed(onnx)
        rows = [
            {
                "kind": kind,
                "macs": macs.total(counts) / macs.total(self.whole),
                "ms": ms,
                "predicted": cost.total(counts),
            }
            for (kind, _, counts), ms in zip(plans, times, strict=True)
        ]
        unpruned, *rows = rows
        shift = unpruned["predicted"] / unpruned["ms"]
        for row in rows:
            row["error"] = row["predicted"] / row["ms"] - 1
            row["beside"] = row["predicted"] / row["ms"] / shift - 1
            row["exponent"] = float(np.log(row["ms"] / unpruned["ms"]) / np.log(row["macs"]))
        return {
            "environment": environment(),
            "net": self.text,
            "runtime": f"{runtime} {profile.version}",
            "precision": self.precision,
            "step": cost.model.step,
            "alignment": cost.model.alignment,
            "profile_noise": profile.noise,
            "others": others,
            "unpruned": unpruned,
            **of_errors([row["error"] for row in rows]),
            "beside": of_errors([row["beside"] for row in rows]),
            "plans": rows,
        }

    def timed(self, onnx: Sequence[Path]) -> tuple[list[float], float | None]:
        """Milliseconds of each file as `bench` has them, but over nine fresh processes: they differ by up to a tenth.

        And how many cores other processes kept busy meanwhile.
        """
        conditions = self.conditions
        rounds = [Round([(file, conditions.runtime, conditions.device)], 1, None) for file in onnx]
        found = looks(rounds, WINDOWS, conditions.threads, Console())
        every = zip(*(look.sessions for look in found), strict=True)
        times = [timing([session for (session,) in each], 1, WINDOWS).median.value for each in every]
        return times, busiest(found)


def of_errors(errors: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(np.abs(errors))), "worst": float(np.abs(errors).max())}


class _Nothing:
    """No images: magnitudes need none."""

    def __len__(self) -> int:
        return 1

    def sample(self, *arguments: object) -> Iterator[None]:
        return iter(())


if __name__ == "__main__":
    main()
