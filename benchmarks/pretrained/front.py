"""Pruned models beside every smaller net and smaller image that one could take instead, at the same milliseconds.

    python benchmarks/pretrained/front.py --tar caltech101_160.tar --work WORK make [--only 'lite0-*'] [--untuned]
    python benchmarks/pretrained/front.py --tar caltech101_160.tar --work WORK time [--out results/front.json]

ImageNet weights, all 100 classes: unpruned nets under a head in closed form, and pruned ones of them by obs (`DEEP`
cuts by the default recipe, which tries more). Untuned, and tuned alike: `TUNED`, then the head solved again. `make`
leaves an ONNX file of each in the work folder and goes on where it was stopped; `time` times all that are there, in
turns, in fresh processes, one thread, in ONNX Runtime and OpenVINO, on a machine that does nothing else, and writes
the JSON: of each model its accuracies and milliseconds, and at five latencies from the fastest to the slowest
unpruned model the best pruned beside the best unpruned one that is no slower. With --untuned `make` trains nothing;
called again without it, it trains those that --only names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from prepare import Photographs, backbone, kept, photographs
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
from mvp_deploy.training import TrainConfig, fit

RESULTS = Path(__file__).parent / "results"
RUNTIMES = ("onnxruntime", "openvino")
CLASSES = 100
DEEP = 0.5  # of the MACs
TUNED = TrainConfig(steps=300, batch_size=32, optimizer="adamw", lr=3e-4, weight_decay=0.0, norms="frozen", flip=True)
STATES = ("untuned", "tuned")


@dataclass(frozen=True)
class Candidate:
    """A net at an image size in pixels, and the share of its MACs that stays."""

    net: str
    size: int
    macs: float = 1.0

    def __str__(self) -> str:
        return f"{self.net} at {self.size} px" + (f", {self.macs:.0%} of the MACs" if self.macs < 1 else "")

    @property
    def work(self) -> float:
        """Roughly how much there is to compute; the least is made first."""
        return self.size**2 * self.macs * {"lite0": 1.0, "lite1": 1.5, "lite2": 2.2}[self.net]

    @property
    def stem(self) -> str:
        return f"front-{self.net}-{self.size}-{self.macs:g}"


UNPRUNED = tuple(
    Candidate(net, size)
    for net, sizes in (
        ("lite0", (64, 80, 96, 112, 128, 160, 192)),
        ("lite1", (96, 128, 160, 192)),
        ("lite2", (96, 128, 160, 192, 224)),
    )
    for size in sizes
)
PRUNED = (
    Candidate("lite0", 80, 0.6),
    Candidate("lite0", 96, 0.7),
    Candidate("lite0", 112, 0.7),
    Candidate("lite0", 128, 0.7),
    Candidate("lite2", 128, 0.7),
    Candidate("lite0", 160, 0.7),
    Candidate("lite2", 160, 0.6),
    Candidate("lite2", 128, 0.45),
    Candidate("lite0", 96, 0.5),
    Candidate("lite2", 192, 0.7),
    Candidate("lite0", 128, 0.5),
    Candidate("lite2", 96, 0.7),
    Candidate("lite1", 128, 0.7),
    Candidate("lite0", 128, 0.85),
    Candidate("lite0", 160, 0.85),
    Candidate("lite0", 192, 0.65),
    Candidate("lite0", 144, 0.75),
    Candidate("lite0", 192, 0.85),
    Candidate("lite1", 160, 0.85),
    Candidate("lite1", 128, 0.85),
    Candidate("lite2", 128, 0.85),
    Candidate("lite2", 160, 0.85),
    Candidate("lite2", 192, 0.85),
)


def made(wanted: Candidate, tar: Path, work: Path, *, tune: bool = True) -> dict[str, Any]:
    """The candidate's model as an ONNX file in the work folder, its facts, and which held-out photographs it knows."""
    facts_file = work / f"{wanted.stem}.json"
    known = json.loads(facts_file.read_text(encoding="utf-8")) if facts_file.exists() else {}
    if known and ("tuned" in known or not tune):
        return known
    start, state = backbone(wanted.net, wanted.size, work)
    train, test = Photographs(photographs(tar, work), start, work).of(list(range(CLASSES)))
    make_it = partial(whole if wanted.macs == 1 else pruned, wanted, start, state, train)
    model, classifier, facts = kept(work / f"{wanted.stem}.pt", make_it)
    export_onnx(model, torch.zeros(1, 3, wanted.size, wanted.size), work / f"{wanted.stem}.onnx", {})
    hits = {"untuned": right(model, test)}
    if tune:
        fit(model, train, TUNED)
        solve_head(model, classifier, train)
        hits["tuned"] = right(model, test)
    np.savez(work / f"{wanted.stem}.npz", **hits)
    facts |= asdict(wanted) | {name: float(known.mean()) for name, known in hits.items()}
    write_text(facts_file, json.dumps(facts))
    return facts


def whole(wanted: Candidate, start: Any, state: Any, train: Images) -> tuple[nn.Module, Sequence[str], dict[str, Any]]:
    original = Original.create(start, state, CLASSES)
    model = original.copy()
    solve_head(model, original.classifier, train)
    return model, original.classifier, {"mmacs": original.cost().macs / 1e6}


def pruned(wanted: Candidate, start: Any, state: Any, train: Images) -> tuple[nn.Module, Sequence[str], dict[str, Any]]:
    original = Original.create(*rotate(start, state, train), CLASSES)
    recipe = RECIPES["default" if wanted.macs <= DEEP else "compensated"]
    result = make(original, train, (), recipe, Budget(wanted.macs, "macs"))
    facts = {"mmacs": original.cost(result.decision.plan).macs / 1e6, "way": result.recipe.way}
    return result.model, original.classifier, facts


@torch.no_grad()
def right(model: nn.Module, test: Images) -> np.ndarray:
    """For each held-out photograph, whether its class is found."""
    return np.concatenate([(model.eval()(x).argmax(1) == y).numpy() for x, y in test.batches(128)])


def milliseconds(candidates: Sequence[Candidate], work: Path, runtime: str) -> dict[Candidate, float]:
    """The median time of one image, one thread."""
    settings = Settings(duration=6.0)
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


def by_size(candidates: Sequence[Candidate]) -> Mapping[int, list[Candidate]]:
    sizes: dict[int, list[Candidate]] = {}
    for each in candidates:
        sizes.setdefault(each.size, []).append(each)
    return sizes


def beside(times: Mapping[Candidate, float], work: Path, state: str) -> Iterator[dict[str, Any]]:
    """At five latencies, the best pruned and the best unpruned model that is no slower."""
    spans = [time for each, time in times.items() if each.macs == 1]
    for limit in np.geomspace(min(spans), max(spans), 5).tolist():
        found = {each: np.load(work / f"{each.stem}.npz") for each in times if times[each] <= limit * 1.001}
        hits = {each: known[state] for each, known in found.items() if state in known}
        best = {
            kind: max(group, key=lambda each: hits[each].mean(), default=None)
            for kind, group in (
                ("unpruned", [each for each in hits if each.macs == 1]),
                ("pruned", [each for each in hits if each.macs < 1]),
            )
        }
        told = {kind: None if each is None else str(each) for kind, each in best.items()}
        if best["unpruned"] and best["pruned"]:
            told["gain"] = asdict(paired_change(hits[best["unpruned"]], hits[best["pruned"]]))
        yield {"ms": limit} | told


@click.command()
@click.argument("what", type=click.Choice(["make", "time"]))
@click.option("--only", default="*", help="Of names such as lite0-96-0.7, those that match.")
@click.option("--untuned", is_flag=True, help="For make: train none.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "front.json", show_default=True)
@click.option("--tar", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(what: str, only: str, untuned: bool, out: Path, tar: Path, work: Path) -> None:
    wanted = sorted(UNPRUNED + PRUNED, key=lambda each: each.work)
    wanted = [each for each in wanted if fnmatch(each.stem, f"front-{only}")]
    if what == "make":
        for each in wanted:
            facts = made(each, tar, work, tune=not untuned)
            found = ", ".join(f"{state} {facts[state]:.1%}" for state in STATES if state in facts)
            print(f"{each}: {found}, {facts['mmacs']:.0f} MMACs", flush=True)
        return
    there = [each for each in wanted if (work / f"{each.stem}.json").exists()]
    times = {runtime: milliseconds(there, work, runtime) for runtime in RUNTIMES}
    known = [made(each, tar, work, tune=False) for each in there]
    told = {
        "environment": environment(),
        "tuning": asdict(TUNED),
        "models": [
            facts | {"ms": {name: times[name][each] for name in RUNTIMES}}
            for each, facts in zip(there, known, strict=True)
        ],
        "beside": {name: {state: list(beside(times[name], work, state)) for state in STATES} for name in RUNTIMES},
    }
    write_text(out, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
