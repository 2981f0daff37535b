"""Which model to ship: backbones, image sizes and cuts, by accuracy and measured milliseconds.

Nothing is trained: each candidate gets a head in closed form, a pruned one besides re-solved layers (`reconstruction`).
Leave-one-out accuracy on training images decides; held-out images judge. Every unpruned backbone at every size is a
candidate, and first in line: a smaller backbone or image is what a user would take instead of pruning. Each finished
candidate is kept on disk, so that a killed search goes on, and one that is stopped has told what it knows.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.files import locked, write_text
from mvp_deploy.base.formats import read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.measure import Settings, session
from mvp_deploy.benchmark.runner import open_runner
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.latency.choose import choose
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.format import Conditions, Profile
from mvp_deploy.latency.front import Candidate, Frontier
from mvp_deploy.latency.pieces import layout
from mvp_deploy.pruning.blocks import Worth, worth
from mvp_deploy.pruning.budget import Budget, keep_best
from mvp_deploy.pruning.head import features, ridge_classifier, solve_head
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.reconstruction import reconstruct
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images, Task, prepare
from mvp_deploy.training import accuracy

FILE = "frontier.json"
JUDGED = 2048  # training images that leave-one-out accuracies are taken of, at most
WINDOWS = Settings(duration=1.0, processes=2, window=0.05, warm_up=0.1)


@dataclass(frozen=True)
class Source:
    """A backbone and where its weights come from."""

    name: str
    pretrained: bool = False
    weights: Path | None = None


@dataclass(frozen=True, eq=False)
class Search:
    """What to try.

    key: a checksum of what candidates are made from: data, weights, versions. shares: the cuts, of the unpruned
    milliseconds (or MACs, without a profile), in the order they are tried. profiles: of some of the backbones at some
    of the sizes: these are cut by milliseconds, the others by MACs. milliseconds: the budget; a cut is not tried where
    even that share of the unpruned model's time is above it.
    """

    task: Task
    sources: Sequence[Source]
    sizes: Sequence[int]
    conditions: Conditions
    key: str
    shares: Sequence[float]
    profiles: Sequence[Profile]
    milliseconds: float | None
    seed: int


def search(asked: Search, out: Path, *, seconds: float = math.inf, reporter: Reporter) -> Frontier:
    """Try candidates until all are tried or the time is up; what ``out`` has of the same key stays.

    Args:
        asked: what to try.
        out: the folder for the models and frontier.json.
        seconds: after which no new candidate is begun.
        reporter: receives messages and progress.

    Raises:
        MvpError: the folder holds another search, or no backbone can be made.
    """
    begin = time.monotonic()
    (out / "models").mkdir(parents=True, exist_ok=True)
    with locked(out / "frontier.lock", f"another process is searching in {out}: wait for it."):
        found = _resumed(out, asked)
        places = [_Place(asked, source, size) for size in asked.sizes for source in asked.sources]
        wanted = [(place, share) for share in (1.0, *asked.shares) for place in places]
        with reporter.progress("candidates") as step:
            for number, (place, share) in enumerate(wanted):
                step(number, len(wanted))
                if _known(found, place, share) or (share < 1 and _hopeless(found, place, share, asked.milliseconds)):
                    continue
                if time.monotonic() - begin > seconds and found.candidates:
                    break
                try:
                    made = place.candidate(share, out, found)
                except MvpError as error:
                    reporter.warn(f"{place.source.name} at {place.size} px, {share:.0%}: left out ({error})")
                    continue
                found = replace(found, candidates=(*found.candidates, made))
                write_text(out / FILE, json.dumps(asdict(found), indent=1) + "\n")
                reporter.say(f"{made.name}: {made.ms:.3f} ms, {made.accuracy:.1%}")
    if not found.candidates:
        raise InputError("no candidate could be made: the warnings say why.")
    return found


def _resumed(out: Path, asked: Search) -> Frontier:
    if not (out / FILE).exists():
        return Frontier(asked.key, asked.conditions)
    found = read_json(out / FILE, Frontier, cure="search again in another --out")
    if (found.key, found.conditions) != (asked.key, asked.conditions):
        raise InputError(f"{out} holds the search of something else: give another --out, or remove it.")
    return found


def _known(found: Frontier, place: _Place, share: float) -> bool:
    return any((c.backbone, c.image_size, c.share) == (place.source.name, place.size, share) for c in found.candidates)


def _hopeless(found: Frontier, place: _Place, share: float, milliseconds: float | None) -> bool:
    """Whether a cut would still be slower than the budget, or what it is cut from could not be made."""
    whole = [
        c for c in found.candidates if c.unpruned and _known(Frontier(found.key, found.conditions, (c,)), place, 1)
    ]
    return not whole or (milliseconds is not None and share * whole[0].ms > 1.1 * milliseconds)


class _Place:
    """One backbone at one image size, and what all its candidates share."""

    def __init__(self, asked: Search, source: Source, size: int) -> None:
        self.asked, self.task, self.source, self.size, self.seed = asked, asked.task, source, size, asked.seed

    @cached_property
    def made(self) -> tuple[Backbone, dict[str, Tensor]]:
        source = self.source
        return backbones.create(
            source.name, pretrained=source.pretrained, weights=source.weights, image_size=self.size, seed=self.seed
        )

    @cached_property
    def original(self) -> Original:
        return Original.create(*self.made, len(self.task.classes), seed=self.seed)

    @cached_property
    def images(self) -> tuple[Images, Images]:
        how = self.made[0].preprocessing
        return prepare(self.task.train, how), prepare(self.task.test, how)

    @cached_property
    def whole(self) -> nn.Module:
        """The unpruned model with its head."""
        model = self.original.copy()
        solve_head(model, self.original.classifier, self.images[0])
        return model

    @cached_property
    def scores(self) -> Mapping[str, np.ndarray]:
        original = self.original
        return score("obs", original.structure, self.whole, original.full, self.images[0], seed=self.seed)

    @cached_property
    def worth(self) -> Worth | None:
        """Of whole blocks."""
        return worth(self.whole, self.original.structure, self.images[0], seed=self.seed)

    @property
    def profile(self) -> Profile | None:
        mine = layout(self.original.structure), self.made[0].preprocessing.input_size
        return next((each for each in self.asked.profiles if (each.layout, each.input_size) == mine), None)

    def candidate(self, share: float, out: Path, found: Frontier) -> Candidate:
        start = time.monotonic()
        original, (train, test) = self.original, self.images
        of = "macs" if self.profile is None else "latency"
        if share == 1:
            plan, model = original.full, self.whole
        else:
            plan = self._plan(share)
            model = original.pruned(plan)
            skip = [f"{name}.weight" for name in original.classifier]
            reconstruct(original.model, original.structure, plan, model, train, skip=skip, seed=self.seed)
            solve_head(model, original.classifier, train)
        name = f"models/{self.source.name.replace('/', '-').replace(':', '-')}-{self.size}-{share:g}.onnx"
        size = self.made[0].preprocessing.input_size
        export_onnx(model, torch.zeros(1, *size), out / name, {"classes": list(self.task.classes)})
        made = Candidate(
            self.source.name,
            self.size,
            share,
            of,
            original.cost(plan).macs,
            _leave_one_out(model, original, train),
            accuracy(model, test),
            len(test),
            1.0,
            name,
            0.0,
        )
        ms = _timed(out, [*found.candidates[:1], made], self.asked.conditions)
        if len(ms) == 2:  # beside the first candidate, whose first time stands
            ms = [found.candidates[0].ms, ms[1] / ms[0] * found.candidates[0].ms]
        return replace(made, ms=ms[-1], seconds=time.monotonic() - start)

    def _plan(self, share: float) -> KeepPlan:
        structure, profile = self.original.structure, self.profile
        if profile is None:
            counts = cheapest(structure, Budget(share, "macs"), self.scores)
            return keep_best(structure, self.scores, counts, seed=self.seed)
        cost = Milliseconds(structure, profile)
        step, limit = max(8, cost.model.alignment), share * cost.total({})
        found = choose(structure, cost, self.scores, limit, round_to=step, worth=self.worth)
        return keep_best(structure, self.scores, found.counts, without=found.without, seed=self.seed)


def _leave_one_out(model: nn.Module, original: Original, train: Images) -> float:
    seen, labels = features(model, original.classifier, train, JUDGED)
    rows = seen[0][:JUDGED]
    return float(ridge_classifier(rows, labels[:JUDGED], original.num_classes).loo_accuracy)


def _timed(out: Path, candidates: Sequence[Candidate], conditions: Conditions) -> list[float]:
    """Milliseconds of the candidates, in turns, each on images of its own size."""
    with ExitStack() as stack:
        runners = [
            stack.enter_context(
                closing(
                    open_runner(
                        out / each.file, conditions.runtime, threads=conditions.threads, device=conditions.device
                    )
                )
            )
            for each in candidates
        ]
        rng = np.random.default_rng(0)
        turns: list[list[float]] = [[] for _ in runners]
        for turn in _alternating(3, len(runners)):
            batch = rng.standard_normal((conditions.batch, *runners[turn].image_shape), np.float32)
            turns[turn].append(session([runners[turn]], batch, replace(WINDOWS, duration=0.3))[0].median)
        return [float(np.median(times)) for times in turns]


def _alternating(rounds: int, number: int) -> Iterator[int]:
    for turn in range(rounds):
        yield from range(number) if turn % 2 == 0 else reversed(range(number))
