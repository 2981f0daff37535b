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
    aligned   a budget of MACs, channels in the multiples that the profile found fast: with --aligned
    torch-pruning   what Torch-Pruning leaves at the MACs of `macs`, as in peers.py, boldly tuned: with --torch-pruning

and what the product takes, `macs` of macs and macs3, `latency` of the others: the one with the least leave-one-out loss
on training images.
A profile in int8 has all models made in int8, as `export` makes them, and timed in its runtime alone.

`make` times nothing and may be killed at any moment: each model, and the scores, are kept. `tune` trains what the
product takes, and the unpruned model, as `front.py` does. `time` needs a quiet machine, the profile's: all models take
turns in fresh processes. It writes the JSON.

    mvp-deploy profile tf_efficientnet_lite0 --image-size 128 --out WORK/lite0-128.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "pretrained"))
from front import TUNED as TUNING
from front import Candidate
from peers import Bench
from prepare import Photographs, kept, photographs

from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.benchmark.looks import Round, looks
from mvp_deploy.benchmark.measure import Settings, timing
from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.benchmark.statistics import paired_change
from mvp_deploy.calibration.guard import Limit
from mvp_deploy.cli._common import Console
from mvp_deploy.export.config import Exports
from mvp_deploy.export.graphs import Graphs
from mvp_deploy.export.pack import calibration_images
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.latency import files
from mvp_deploy.latency.choose import choose
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.format import Conditions, Profile
from mvp_deploy.latency.meet import Meeting, Target
from mvp_deploy.pipeline.judge import calibration_accuracy
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
ALIGNED = "aligned"
PEER = "torch-pruning"
TUNED = "-tuned"
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
    parser.add_argument("step", choices=["make", "tune", "time"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--tar", type=Path, help="for make and tune: the photographs")
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--net", default="lite0")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rotate", action="store_true", help="for make: streams in principal directions, as in prune")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.65, 0.5])
    parser.add_argument("--smaller", type=int, nargs="*", default=[112, 96, 80], help="image sizes of unpruned models")
    parser.add_argument("--aligned", action="store_true", help="with budgets of MACs in the profile's multiples")
    parser.add_argument("--torch-pruning", action="store_true", help="beside it, tuned too; for all 100 classes")
    parser.add_argument("--at-most", type=int, help="for make: so many models in this call")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"], help="for time")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "equal.json")
    asked = parser.parse_args()
    profile = files.read(asked.profile)
    size = profile.input_size[-1]
    way = f"{profile.precision}-{profile.conditions.runtime}"
    models = asked.work / f"equal-{asked.net}-{size}-{asked.classes}-{way}"
    kinds = (*KINDS, *([ALIGNED] if asked.aligned else []), *([PEER] if asked.torch_pruning else []))
    cells = [Cell("unpruned", size), *(Cell(kind, share) for share in asked.shares for kind in kinds)]
    cells += [Cell("unpruned", edge) for edge in asked.smaller]
    if asked.step == "make":
        make(asked, profile, models, cells)
    elif asked.step == "tune":
        place = Place(asked, size, models)
        peer = [PEER] if asked.torch_pruning else []
        trained = [Cell(kind, share) for share in asked.shares for kind in (*taken(models, share), *peer)]
        for cell in [cells[0], *trained]:
            if not (models / f"{cell.name}{TUNED}.json").exists():
                place.tune(cell, profile)
    else:
        measure(asked, profile, models, [cell for cell in cells if (models / f"{cell.name}.json").exists()])


class Place:
    """The net with its head for the task at one image size."""

    def __init__(self, asked: argparse.Namespace, size: int, models: Path) -> None:
        self.models = models
        self.peer = Bench.of(Candidate(asked.net, size), TUNING.steps, asked.tar, asked.work)
        start, state = self.peer.start, self.peer.state
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
        file = self.models / "scores.npz"
        if not file.exists():
            np.savez(file, **own_importance(self.original, self.train, "obs"))
        return dict(np.load(file))

    @cached_property
    def worth(self) -> Worth:
        """Of blocks; each measurement is kept."""
        file = self.models / "worth.json"
        known: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
        measured = worth_of_blocks(self.original, self.train)

        def found(gone: frozenset[str]) -> Mapping[str, float]:
            key = " ".join(sorted(gone))
            if key not in known:
                known[key] = dict(measured(gone))
                write_text(file, json.dumps(known))
            return known[key]

        return found

    def plan(self, cell: Cell, profile: Profile) -> KeepPlan:
        structure = self.original.structure
        cost = Milliseconds(structure, profile)
        if cell.kind in (*MACS, ALIGNED):
            round_to = max(8, cost.model.alignment) if cell.kind == ALIGNED else 8
            budget, counts = by_macs(structure, cost, self.scores, cell.value, round_to)
            if cell.kind != "macs3":
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
        original = self.original
        model, plan = self.model(cell, profile)
        if plan is None:
            return self.keep(cell.name, model, {"macs": self.peer.macs(model)}, profile)
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
        self.keep(cell.name, model, facts, profile)

    def model(self, cell: Cell, profile: Profile) -> tuple[torch.nn.Module, KeepPlan | None]:
        """The cell's model before any training, and its plan, where it has one; worked out once."""

        def made() -> tuple[torch.nn.Module, KeepPlan | None]:
            if cell.kind == PEER:
                alike = json.loads((self.models / f"macs-{cell.value:g}.json").read_text(encoding="utf-8"))
                return self.peer.cut_once(alike["macs"]), None
            original, train = self.original, self.train
            plan = original.full if cell.kind == "unpruned" else self.plan(cell, profile)
            model = original.pruned(plan)
            if cell.kind != "unpruned":
                skip = [f"{layer}.weight" for layer in original.classifier]
                reconstruct(original.model, original.structure, plan, model, train, most=MANY, skip=skip)
            solve_head(model, original.classifier, train)
            return model, plan

        return kept(self.models / f"{cell.name}.pt", made)

    def tune(self, cell: Cell, profile: Profile) -> None:
        """The same of the model after training as `front.py` trains."""
        model, _ = self.model(cell, profile)
        self.peer.tune(model, self.original.classifier, TUNING.steps, bold=cell.kind == PEER)
        facts = json.loads((self.models / f"{cell.name}.json").read_text(encoding="utf-8"))
        self.keep(cell.name + TUNED, model, facts | {"steps": TUNING.steps}, profile)

    def keep(self, name: str, model: torch.nn.Module, facts: dict[str, Any], profile: Profile) -> None:
        path = self.models / f"{name}.onnx"
        export_onnx(model, torch.zeros(1, *self.original.backbone.preprocessing.input_size), path, {})
        if profile.precision != "fp32":
            facts = facts | {"returned": self.convert(path, profile)}
        known = right(path, profile.conditions, self.test)
        np.save(path.with_suffix(".npy"), known)
        write_text(path.with_suffix(".json"), json.dumps(facts))
        print(f"{name}: {known.mean():.1%}, {json.dumps(facts)}", flush=True)

    def convert(self, path: Path, profile: Profile) -> list[str]:
        """Put the file in the profile's precision in its place; the layers that stayed in float32."""
        conditions, how = profile.conditions, Exports()
        images = calibration_images(self.train, 0, Console())
        with TemporaryDirectory() as folder:
            limit = Limit(lambda tried: calibration_accuracy(tried, conditions, images), len(images), how.max_drop)
            graphs = Graphs(path, images, how, Path(folder))
            found = graphs.get(profile.precision, "cpu" if conditions.form == "cpu" else "tensorrt", lambda: limit)
            shutil.copy(found.path, path)
        return list(found.kept)


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


def taken(models: Path, share: float) -> list[str]:
    """The kinds with the least leave-one-out loss, of budgets of MACs and of milliseconds."""

    def loss(kind: str) -> float:
        return json.loads((models / f"{kind}-{share:g}.json").read_text(encoding="utf-8"))["loo_loss"]

    return [min(kinds, key=loss) for kinds in (MACS, TIME)]


def by_macs(
    structure: Structure, cost: Milliseconds, scores: Mapping[str, np.ndarray], share: float, round_to: int
) -> tuple[Budget, dict[str, int]]:
    """The largest budget of MACs that the profile predicts to take no more than the share of the time, and its plan."""
    low, high = 0.05, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        fits = cost.total(cheapest(structure, Budget(middle, "macs", round_to), scores)) <= share * cost.total({})
        low, high = (middle, high) if fits else (low, middle)
    budget = Budget(low, "macs", round_to)
    return budget, cheapest(structure, budget, scores)


def right(file: Path, conditions: Conditions, test: Images) -> np.ndarray:
    """For each held-out photograph, whether its class is found."""
    with closing(open_runner(file, conditions.runtime, threads=1)) as runner:
        return np.concatenate([logits(runner, x.numpy(), 64).argmax(1) == y.numpy() for x, y in test.batches(64)])


def measure(asked: argparse.Namespace, profile: Profile, models: Path, cells: list[Cell]) -> None:
    """Time all models, in turns where they take images of one size, and write the JSON."""
    size = profile.input_size[-1]
    turns = [[cell.name for cell in cells if cell.kind != "unpruned" or cell.value == size]]
    turns[0] += [name + TUNED for name in turns[0] if (models / f"{name}{TUNED}.json").exists()]
    turns += [[cell.name] for cell in cells if cell.name not in turns[0]]
    names = [name for turn in turns for name in turn]
    facts = {name: json.loads((models / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    hits = {name: np.load(models / f"{name}.npy") for name in names}
    threads = profile.conditions.threads
    settings = Settings(duration=6.0)
    ms: dict[str, dict[str, Any]] = {name: {} for name in names}
    runtimes = asked.runtimes if profile.precision == "fp32" else [profile.conditions.runtime]
    for runtime in runtimes:
        rounds = [Round([(models / f"{name}.onnx", runtime, "cpu") for name in turn], 1, None) for turn in turns]
        found = looks(rounds, settings, threads, Console())
        for number, turn in enumerate(turns):
            sessions = zip(*(look.sessions[number] for look in found), strict=True)
            for name, took in zip(turn, sessions, strict=True):
                ms[name][runtime] = asdict(timing(took, 1, settings).median)
    told = [{"name": name, "ms": ms[name], "accuracy": float(hits[name].mean()), **facts[name]} for name in names]
    chosen = {share: taken(models, share) for share in asked.shares}
    result = {
        "environment": environment(),
        "profile": str(profile),
        "tested": len(next(iter(hits.values()))),
        "models": told,
        "chosen": {f"{share:g}": kinds for share, kinds in chosen.items()},
        "comparisons": list(compared(hits, ms, chosen)),
    }
    for each in told:
        times = ", ".join(f"{name} {took['value']:.3f} ms" for name, took in each["ms"].items())
        print(f"{each['name']}: {times}, {each['accuracy']:.1%}, {each['macs'] / 1e6:.1f} MMACs")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.out, json.dumps(result, indent=1) + "\n")


def compared(
    hits: Mapping[str, np.ndarray], ms: Mapping[str, Any], chosen: Mapping[float, list[str]]
) -> Iterator[dict[str, Any]]:
    """For each share: latency less macs and the other kinds, in accuracy (paired) and in measured time; tuned too."""
    for share, (_, kind) in chosen.items():
        mine = f"{kind}-{share:g}"
        others = [f"{each}-{share:g}" for each in (*KINDS, ALIGNED, PEER) if each != kind]
        pairs = [(mine, other) for other in others] + [(mine + TUNED, other + TUNED) for other in others]
        for latency, other in pairs:
            if latency in hits and other in hits:
                yield {
                    "latency": latency,
                    "against": other,
                    "accuracy": asdict(paired_change(hits[other], hits[latency])),
                    "faster": {name: ms[other][name]["value"] / took["value"] for name, took in ms[latency].items()},
                }


if __name__ == "__main__":
    main()
