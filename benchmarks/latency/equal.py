"""At equal milliseconds: what to budget by, and whether blocks should go; beside them unpruned smaller images.

    python benchmarks/latency/equal.py make WORK --tar caltech101_160.tar --profile WORK/lite0-128.json
    python benchmarks/latency/equal.py time WORK --profile WORK/lite0-128.json

ImageNet weights, Caltech photographs, nothing tuned: scores by OBS, readers re-solved, heads in closed form. For each
share of the unpruned time plans that the profile predicts to take it:

    macs      a budget of MACs, its fraction chosen so that the profile predicts this time
    width     a budget of milliseconds, all blocks stay
    blocks    a budget of milliseconds, blocks go where that is predicted to lose less
    macs3     a budget of MACs, that fraction, in three rounds of cut and re-solve
    width3    a budget of milliseconds in three rounds

and what the product takes, `macs` of macs and macs3, `latency` of the others: the one with the least leave-one-out loss
on training images.
`make` times nothing and may be killed at any moment: each model, and the scores, are kept. `time` needs a quiet
machine, the profile's: all models take turns in fresh processes. It writes the JSON.

    mvp-deploy profile tf_efficientnet_lite0 --image-size 128 --out WORK/lite0-128.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

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
from mvp_deploy.latency.choose import choose
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Meeting, Target
from mvp_deploy.pruning.blocks import Worth
from mvp_deploy.pruning.budget import Budget, keep_best
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.pruning.mvp import in_rounds, own_importance, worth_of_blocks
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import RECIPES
from mvp_deploy.pruning.reconstruction import MANY, reconstruct
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.pruning.yardstick import Yardstick
from mvp_deploy.structure import KeepPlan, Structure
from mvp_deploy.tasks import Images

MACS, TIME = ("macs", "macs3"), ("width", "blocks", "width3")
KINDS = (*MACS, *TIME)
ROUNDS = replace(RECIPES["compensated"], rounds=3)


@dataclass(frozen=True)
class Cell:
    """One model: unpruned at an image size, or a plan of a kind for a share of the unpruned time."""

    kind: str
    value: float  # the image's edge, or the share

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.value:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", "time"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--tar", type=Path, help="for make: the photographs")
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--net", default="lite0")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rotate", action="store_true", help="for make: streams in principal directions, as in prune")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.65, 0.5])
    parser.add_argument("--smaller", type=int, nargs="*", default=[112, 96, 80], help="image sizes of unpruned models")
    parser.add_argument("--at-most", type=int, help="for make: so many models in this call")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"], help="for time")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "equal.json")
    asked = parser.parse_args()
    profile = files.read(asked.profile)
    size = profile.input_size[-1]
    models = asked.work / f"equal-{asked.net}-{size}-{asked.classes}"
    cells = [Cell("unpruned", size), *(Cell(kind, share) for share in asked.shares for kind in KINDS)]
    cells += [Cell("unpruned", edge) for edge in asked.smaller]
    if asked.step == "make":
        make(asked, profile, models, cells)
    else:
        measure(asked, profile, models, cells)


class Place:
    """The net with its head for the task at one image size."""

    def __init__(self, asked: argparse.Namespace, size: int, models: Path) -> None:
        self.models = models
        start, state = backbone(asked.net, size, asked.work)
        every = Photographs(photographs(asked.tar, asked.work), start, asked.work)
        classes = list(range(0, 100, 100 // asked.classes))[: asked.classes]
        self.train, self.test = every.of(classes)
        if asked.rotate:
            start, state = rotate(start, state, self.train)
        self.original = Original.create(start, state, asked.classes)

    @cached_property
    def yardstick(self) -> Yardstick:
        return Yardstick(self.original, self.train)

    @cached_property
    def scores(self) -> Mapping[str, np.ndarray]:
        kept = self.models / "scores.npz"
        if not kept.exists():
            np.savez(kept, **own_importance(self.original, self.train, "obs"))
        return dict(np.load(kept))

    @cached_property
    def worth(self) -> Worth:
        """Of blocks; each measurement is kept."""
        kept = self.models / "worth.json"
        known: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
        measured = worth_of_blocks(self.original, self.train)

        def found(gone: frozenset[str]) -> Mapping[str, float]:
            key = " ".join(sorted(gone))
            if key not in known:
                known[key] = dict(measured(gone))
                write_text(kept, json.dumps(known))
            return known[key]

        return found

    def plan(self, cell: Cell, profile: Profile) -> KeepPlan:
        structure = self.original.structure
        cost = Milliseconds(structure, profile)
        if cell.kind in MACS:
            budget, counts = by_macs(structure, cost, self.scores, cell.value)
            if cell.kind == "macs":
                return keep_best(structure, self.scores, counts)
            return in_rounds(self.original, self.train, ROUNDS, budget, lambda: self.scores).plan
        if cell.kind == "width3":
            target = Target(speed_up=1 / cell.value)
            meeting = Meeting(structure, profile, target, round_to=8, timer=None, reporter=Console())
            return in_rounds(
                self.original, self.train, ROUNDS, meeting.budget, lambda: self.scores, allocate=meeting
            ).plan
        worth = self.worth if cell.kind == "blocks" else None
        limit, step = cell.value * cost.total({}), max(8, cost.model.alignment)
        found = choose(structure, cost, self.scores, limit, round_to=step, worth=worth)
        return keep_best(structure, self.scores, found.counts, without=found.without)

    def make(self, cell: Cell, profile: Profile) -> None:
        """The cell's ONNX file, its answers to the held-out photographs, and last its facts."""
        original, train = self.original, self.train
        plan = original.full if cell.kind == "unpruned" else self.plan(cell, profile)
        model = original.pruned(plan)
        if cell.kind != "unpruned":
            skip = [f"{layer}.weight" for layer in original.classifier]
            reconstruct(original.model, original.structure, plan, model, train, most=MANY, skip=skip)
        solve_head(model, original.classifier, train)
        told = self.yardstick.measure(model, plan)
        facts: dict[str, Any] = {
            "macs": original.cost(plan).macs,
            "blocks_gone": sorted(plan.without),
            "loo_loss": told.loo_loss,
            "loo_accuracy": told.loo_accuracy,
        }
        if original.backbone.preprocessing.input_size == profile.input_size:
            counts = {group.name: plan.kept(group.name) for group in original.structure.groups}
            cost = Milliseconds(original.structure, profile).without(plan.without)
            facts["predicted_ms"] = cost.total(counts)
        path = self.models / f"{cell.name}.onnx"
        export_onnx(model, torch.zeros(1, *original.backbone.preprocessing.input_size), path, {})
        np.save(path.with_suffix(".npy"), right(model, self.test))
        write_text(path.with_suffix(".json"), json.dumps(facts))
        accuracy = np.load(path.with_suffix(".npy")).mean()
        print(f"{cell.name}: {accuracy:.1%}, {json.dumps(facts)}", flush=True)


def make(asked: argparse.Namespace, profile: Profile, models: Path, cells: list[Cell]) -> None:
    """What is not there yet."""
    models.mkdir(parents=True, exist_ok=True)
    places: dict[int, Place] = {}
    missing = [cell for cell in cells if not (models / f"{cell.name}.json").exists()]
    for cell in missing[: asked.at_most]:
        size = int(cell.value) if cell.kind == "unpruned" else profile.input_size[-1]
        if size not in places:
            places[size] = Place(asked, size, models)
        places[size].make(cell, profile)


def by_macs(
    structure: Structure, cost: Milliseconds, scores: Mapping[str, np.ndarray], share: float
) -> tuple[Budget, dict[str, int]]:
    """The largest budget of MACs that the profile predicts to take no more than the share of the time, and its plan."""
    low, high = 0.05, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        fits = cost.total(cheapest(structure, Budget(middle, "macs"), scores)) <= share * cost.total({})
        low, high = (middle, high) if fits else (low, middle)
    budget = Budget(low, "macs")
    return budget, cheapest(structure, budget, scores)


@torch.no_grad()
def right(model: torch.nn.Module, test: Images) -> np.ndarray:
    """For each held-out photograph, whether its class is found."""
    return np.concatenate([(model(x).argmax(1) == y).numpy() for x, y in test.batches(128)])


def measure(asked: argparse.Namespace, profile: Profile, models: Path, cells: list[Cell]) -> None:
    """Time all models, in turns where they take images of one size, and write the JSON."""
    facts = {cell.name: json.loads((models / f"{cell.name}.json").read_text(encoding="utf-8")) for cell in cells}
    hits = {cell.name: np.load(models / f"{cell.name}.npy") for cell in cells}
    turns = [[cell for cell in cells if cell.kind != "unpruned" or cell.value == profile.input_size[-1]]]
    turns += [[cell] for cell in cells if cell not in turns[0]]
    threads = profile.conditions.threads
    settings = Settings(duration=6.0)
    ms: dict[str, dict[str, Any]] = {cell.name: {} for cell in cells}
    for runtime in asked.runtimes:
        rounds = [Round([(models / f"{cell.name}.onnx", runtime, "cpu") for cell in turn], 1, None) for turn in turns]
        found = looks(rounds, settings, threads, Console())
        for number, turn in enumerate(turns):
            sessions = zip(*(look.sessions[number] for look in found), strict=True)
            for cell, took in zip(turn, sessions, strict=True):
                ms[cell.name][runtime] = asdict(timing(took, 1, settings).median)
    told = [
        {"name": cell.name, "ms": ms[cell.name], "accuracy": float(hits[cell.name].mean()), **facts[cell.name]}
        for cell in cells
    ]
    chosen = {share: [min(kinds, key=lambda kind: facts[f"{kind}-{share:g}"]["loo_loss"]) for kinds in (MACS, TIME)]
              for share in asked.shares}  # fmt: skip
    result = {
        "environment": environment(),
        "profile": str(profile),
        "tested": len(next(iter(hits.values()))),
        "models": told,
        "chosen": {f"{share:g}": kinds for share, kinds in chosen.items()},
        "comparisons": list(compared(asked, hits, ms, chosen)),
    }
    for each in told:
        times = ", ".join(f"{name} {took['value']:.3f} ms" for name, took in each["ms"].items())
        print(f"{each['name']}: {times}, {each['accuracy']:.1%}, {each['macs'] / 1e6:.1f} MMACs")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.out, json.dumps(result, indent=1) + "\n")


def compared(
    asked: argparse.Namespace, hits: Mapping[str, np.ndarray], ms: Mapping[str, Any], chosen: Mapping[float, list[str]]
) -> Iterator[dict[str, Any]]:
    """For each share and runtime: latency less macs and the other kinds, in accuracy (paired) and in measured time."""
    for share, (_, kind) in chosen.items():
        mine = f"{kind}-{share:g}"
        for other in (f"{each}-{share:g}" for each in KINDS if each != kind):
            yield {
                "latency": mine,
                "against": other,
                "accuracy": asdict(paired_change(hits[other], hits[mine])),
                "faster": {name: ms[other][name]["value"] / ms[mine][name]["value"] for name in asked.runtimes},
            }


if __name__ == "__main__":
    main()
