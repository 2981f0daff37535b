"""Pruned models beside every smaller net and smaller image that one could take instead, at the same milliseconds.

    python benchmarks/pretrained/front.py --tar caltech101_160.tar --work WORK make
    python benchmarks/pretrained/front.py --tar caltech101_160.tar --work WORK time

ImageNet weights, all 100 classes, nothing tuned: unpruned nets under a head in closed form, and what `prune` makes of
some of them by its default. `make` leaves an ONNX file of each in the work folder and goes on where it was stopped;
`time` times all of them in turns, in fresh processes, one thread, in ONNX Runtime and OpenVINO, on a machine that does
nothing else, and writes results/front.json: of each model its accuracy and milliseconds, and at five latencies from the
fastest to the slowest unpruned model the best pruned beside the best unpruned one that is no slower.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from prepare import Photographs, backbone, photographs
from torch import nn

from mvp_deploy.base.environment import environment
from mvp_deploy.base.files import write_text
from mvp_deploy.benchmark.looks import Round, looks
from mvp_deploy.benchmark.measure import Settings, timing
from mvp_deploy.benchmark.statistics import paired_change
from mvp_deploy.cli._common import Console
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.making import make
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import RECIPES
from mvp_deploy.pruning.rotation import rotate
from mvp_deploy.tasks import Images

RESULTS = Path(__file__).parent / "results"
RUNTIMES = ("onnxruntime", "openvino")
CLASSES = 100


@dataclass(frozen=True)
class Candidate:
    """A net at an image size in pixels, and the share of its MACs that stays."""

    net: str
    size: int
    macs: float = 1.0

    def __str__(self) -> str:
        return f"{self.net} at {self.size} px" + (f", {self.macs:.0%} of the MACs" if self.macs < 1 else "")

    @property
    def stem(self) -> str:
        return f"front-{self.net}-{self.size}-{self.macs:g}"


UNPRUNED = tuple(
    Candidate(net, size)
    for net, sizes in (("lite0", (64, 80, 96, 112, 128, 160)), ("lite1", (96, 128)), ("lite2", (96, 128, 160)))
    for size in sizes
)
PRUNED = (
    Candidate("lite0", 96, 0.7),
    Candidate("lite0", 112, 0.7),
    Candidate("lite0", 128, 0.5),
    Candidate("lite0", 128, 0.7),
    Candidate("lite0", 160, 0.7),
    Candidate("lite1", 128, 0.7),
    Candidate("lite2", 96, 0.7),
    Candidate("lite2", 128, 0.45),
    Candidate("lite2", 128, 0.7),
    Candidate("lite2", 160, 0.6),
)


def made(wanted: Candidate, tar: Path, work: Path) -> dict[str, Any]:
    """The candidate's model as an ONNX file in the work folder, its facts, and which held-out photographs it knows."""
    facts_file = work / f"{wanted.stem}.json"
    if facts_file.exists():
        return json.loads(facts_file.read_text(encoding="utf-8"))
    start, state = backbone(wanted.net, wanted.size, work)
    train, test = Photographs(photographs(tar, work), start, work).of(list(range(CLASSES)))
    model, facts = (whole if wanted.macs == 1 else pruned)(wanted, start, state, train)
    export_onnx(model, torch.zeros(1, 3, wanted.size, wanted.size), work / f"{wanted.stem}.onnx", {})
    hits = right(model, test)
    np.save(work / f"{wanted.stem}.npy", hits)
    facts |= asdict(wanted) | {"accuracy": float(hits.mean())}
    write_text(facts_file, json.dumps(facts))
    return facts


def whole(wanted: Candidate, start: Any, state: Any, train: Images) -> tuple[nn.Module, dict[str, Any]]:
    original = Original.create(start, state, CLASSES)
    model = original.copy()
    solve_head(model, original.classifier, train)
    return model, {"mmacs": original.cost().macs / 1e6}


def pruned(wanted: Candidate, start: Any, state: Any, train: Images) -> tuple[nn.Module, dict[str, Any]]:
    original = Original.create(*rotate(start, state, train), CLASSES)
    result = make(original, train, (), RECIPES["default"], Budget(wanted.macs, "macs"))
    plan = result.decision.plan
    return result.model, {
        "mmacs": original.cost(plan).macs / 1e6,
        "way": result.recipe.way,
        "ways": result.steps["ways"],
    }


@torch.no_grad()
def right(model: nn.Module, test: Images) -> np.ndarray:
    """For each held-out photograph, whether its class is found."""
    return np.concatenate([(model.eval()(x).argmax(1) == y).numpy() for x, y in test.batches(128)])


def milliseconds(work: Path, runtime: str) -> dict[Candidate, float]:
    """The median time of one image, one thread."""
    candidates, settings = UNPRUNED + PRUNED, Settings(duration=6.0)
    rounds = [
        Round([(work / f"{each.stem}.onnx", runtime, "cpu") for each in group], 1, None)
        for group in by_size(candidates).values()
    ]
    found = looks(rounds, settings, 1, Console())
    times: dict[Candidate, float] = {}
    for place, group in enumerate(by_size(candidates).values()):
        sessions = zip(*(look.sessions[place] for look in found), strict=True)
        times |= {each: timing(theirs, 1, settings).median.value for each, theirs in zip(group, sessions, strict=True)}
    return times


def by_size(candidates: tuple[Candidate, ...]) -> Mapping[int, list[Candidate]]:
    sizes: dict[int, list[Candidate]] = {}
    for each in candidates:
        sizes.setdefault(each.size, []).append(each)
    return sizes


def beside(times: Mapping[Candidate, float], work: Path) -> Iterator[dict[str, Any]]:
    """At five latencies, the best pruned and the best unpruned model that is no slower."""
    spans = [times[each] for each in UNPRUNED]
    for limit in np.geomspace(min(spans), max(spans), 5).tolist():
        hits = {each: np.load(work / f"{each.stem}.npy") for each in times if times[each] <= limit * 1.001}
        best = {
            kind: max((each for each in group if each in hits), key=lambda each: hits[each].mean(), default=None)
            for kind, group in (("unpruned", UNPRUNED), ("pruned", PRUNED))
        }
        told = {kind: None if each is None else str(each) for kind, each in best.items()}
        if best["unpruned"] and best["pruned"]:
            told["gain"] = asdict(paired_change(hits[best["unpruned"]], hits[best["pruned"]]))
        yield {"ms": limit} | told


@click.command()
@click.argument("what", type=click.Choice(["make", "time"]))
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(what: str, tar: Path, work: Path) -> None:
    facts = {}
    for each in UNPRUNED + PRUNED:
        facts[each] = made(each, tar, work)
        print(f"{each}: {facts[each]['accuracy']:.1%}, {facts[each]['mmacs']:.0f} MMACs", flush=True)
    if what == "make":
        return
    times = {runtime: milliseconds(work, runtime) for runtime in RUNTIMES}
    cells = [facts[each] | {"ms": {runtime: times[runtime][each] for runtime in RUNTIMES}} for each in facts]
    told = {
        "environment": environment(),
        "models": cells,
        "beside": {runtime: list(beside(times[runtime], work)) for runtime in RUNTIMES},
    }
    write_text(RESULTS / "front.json", json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
