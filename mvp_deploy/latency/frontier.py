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
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone
from mvp_deploy.base.errors import InputError, LatencyError, MvpError
from mvp_deploy.base.files import locked, write_text
from mvp_deploy.base.formats import Amount, Count, Share, Within, read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.measure import Settings, session
from mvp_deploy.benchmark.runner import open_runner
from mvp_deploy.benchmark.statistics import Interval, share_interval
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.format import Conditions, Profile
from mvp_deploy.latency.pieces import layout
from mvp_deploy.latency.plan import solve
from mvp_deploy.pruning.budget import Budget, keep_best
from mvp_deploy.pruning.head import features, ridge_classifier, solve_head
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.knapsack import cheapest
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.reconstruction import reconstruct
from mvp_deploy.tasks import Images, Task, prepare
from mvp_deploy.training import accuracy

FILE = "frontier.json"
SHARES = (0.7, 0.5, 0.85)  # of the unpruned milliseconds (or MACs, without a profile), in the order they are tried
JUDGED = 2048  # training images that leave-one-out accuracies are taken of, at most
WINDOWS = Settings(duration=1.0, processes=2, window=0.05, warm_up=0.1)


@dataclass(frozen=True)
class Candidate:
    """One model.

    share: of the unpruned ``of`` ('latency' or 'macs') that it keeps, 1 for unpruned. loo, accuracy: leave-one-out on
    training images, and held-out. ms: measured, in turns with the first candidate.
    """

    backbone: Annotated[str, Within(1, 300)]
    image_size: Annotated[int, Within(1, 100_000)]
    share: Share
    of: Annotated[str, Within(1, 20)]
    macs: Count
    loo: Share
    accuracy: Share
    tested: Count
    ms: Annotated[float, Within(1e-6, 1e9)]
    file: Annotated[str, Within(1, 300)]
    seconds: Amount  # that finding it took

    @property
    def unpruned(self) -> bool:
        return self.share == 1

    @property
    def name(self) -> str:
        cut = "" if self.unpruned else f" cut to {self.share:.0%} of its {self.of}"
        return f"{self.backbone} at {self.image_size} px{cut}"

    @property
    def interval(self) -> Interval:
        """Of the held-out accuracy."""
        return share_interval(round(self.accuracy * self.tested), self.tested)


@dataclass(frozen=True)
class Frontier:
    """All candidates so far; ``key``: of what they were made from."""

    key: Annotated[str, Within(1, 100)]
    conditions: Conditions
    candidates: tuple[Candidate, ...] = ()

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other beats in both leave-one-out accuracy and milliseconds, fastest first."""
        best: list[Candidate] = []
        for each in sorted(self.candidates, key=lambda c: (c.ms, -c.loo)):
            if not best or each.loo > best[-1].loo:
                best.append(each)
        return best

    def winner(self, milliseconds: float | None) -> Candidate:
        """The most accurate candidate within the time. Raises LatencyError where none is."""
        good = [each for each in self.candidates if milliseconds is None or each.ms <= milliseconds]
        if not good:
            fastest = min(self.candidates, key=lambda c: c.ms)
            raise LatencyError(
                f"no candidate takes {milliseconds:g} ms or less: the fastest is {fastest.name} with {fastest.ms:.3f} "
                "ms. Allow more, or add a smaller --image-size or backbone."
            )
        return max(good, key=lambda c: (c.loo, -c.ms))

    def verdict(self, milliseconds: float | None) -> str:
        """What to take, and whether pruning is it."""
        best = self.winner(milliseconds)
        within = "" if milliseconds is None else f" within {milliseconds:g} ms"
        low, high = best.interval.low, best.interval.high
        told = (
            f"Most accurate{within}: {best.name}, {best.ms:.3f} ms, {best.accuracy:.1%} on {best.tested} held-out "
            f"images ({low:.1%} to {high:.1%})."
        )
        if best.unpruned and len(self.candidates) > sum(each.unpruned for each in self.candidates):
            return f"{told} Do not prune: no cut that was tried is better there."
        plain = [
            each for each in self.candidates if each.unpruned and (milliseconds is None or each.ms <= milliseconds)
        ]
        if not best.unpruned and plain:
            other = max(plain, key=lambda c: c.loo)
            return f"{told} Unpruned the best there is {other.name}: {other.ms:.3f} ms, {other.accuracy:.1%}."
        return told


@dataclass(frozen=True)
class Source:
    """A backbone and where its weights come from."""

    name: str
    pretrained: bool = False
    weights: Path | None = None


def search(
    task: Task,
    sources: Sequence[Source],
    sizes: Sequence[int],
    out: Path,
    *,
    conditions: Conditions,
    key: str,
    shares: Sequence[float] = SHARES,
    profiles: Sequence[Profile] = (),
    milliseconds: float | None = None,
    seconds: float = math.inf,
    seed: int = 0,
    reporter: Reporter,
) -> Frontier:
    """Try candidates until all are tried or the time is up; what ``out`` has of the same key stays.

    Args:
        key: a checksum of what candidates are made from: data, weights, versions.
        profiles: of some of the backbones at some of the sizes: these are cut by milliseconds, the others by MACs.
        milliseconds: the budget; a cut is not tried where even that of the unpruned model's time is above it.
        seconds: after which no new candidate is begun.

    Raises:
        MvpError: the folder holds another search, or no backbone can be made.
    """
    begin = time.monotonic()
    (out / "models").mkdir(parents=True, exist_ok=True)
    with locked(out / "frontier.lock", f"another process is searching in {out}: wait for it."):
        found = _resumed(out, key, conditions)
        places = {(s.name, size): _Place(task, s, size, profiles, seed) for size in sizes for s in sources}
        wanted = [(place, 1.0) for place in places.values()]
        wanted += [(place, share) for share in shares for place in places.values()]
        with reporter.progress("candidates") as step:
            for number, (place, share) in enumerate(wanted):
                step(number, len(wanted))
                if _known(found, place, share) or (share < 1 and _hopeless(found, place, share, milliseconds)):
                    continue
                if time.monotonic() - begin > seconds and found.candidates:
                    break
                try:
                    made = place.candidate(share, out, found, conditions)
                except MvpError as error:
                    reporter.warn(f"{place.source.name} at {place.size} px, {share:.0%}: left out ({error})")
                    continue
                found = replace(found, candidates=(*found.candidates, made))
                write_text(out / FILE, json.dumps(asdict(found), indent=1) + "\n")
                reporter.say(f"{made.name}: {made.ms:.3f} ms, {made.accuracy:.1%}")
    if not found.candidates:
        raise InputError("no candidate could be made: the warnings say why.")
    return found


def _resumed(out: Path, key: str, conditions: Conditions) -> Frontier:
    if not (out / FILE).exists():
        return Frontier(key, conditions)
    found = read_json(out / FILE, Frontier, cure="search again in another --out")
    if (found.key, found.conditions) != (key, conditions):
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

    def __init__(self, task: Task, source: Source, size: int, profiles: Sequence[Profile], seed: int) -> None:
        self.task, self.source, self.size, self.profiles, self.seed = task, source, size, profiles, seed

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

    @property
    def profile(self) -> Profile | None:
        mine = layout(self.original.structure), self.made[0].preprocessing.input_size
        return next((each for each in self.profiles if (each.layout, each.input_size) == mine), None)

    def candidate(self, share: float, out: Path, found: Frontier, conditions: Conditions) -> Candidate:
        start = time.monotonic()
        original, (train, test) = self.original, self.images
        of = "macs" if self.profile is None else "latency"
        if share == 1:
            plan, model = original.full, self.whole
        else:
            plan = keep_best(original.structure, self.scores, self._counts(share), seed=self.seed)
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
        ms = _timed(out, [*found.candidates[:1], made], conditions)
        if len(ms) == 2:  # beside the first candidate, whose first time stands
            ms = [found.candidates[0].ms, ms[1] / ms[0] * found.candidates[0].ms]
        return replace(made, ms=ms[-1], seconds=time.monotonic() - start)

    def _counts(self, share: float) -> Mapping[str, int]:
        structure, profile = self.original.structure, self.profile
        if profile is None:
            return cheapest(structure, Budget(share, "macs"), self.scores)
        cost = Milliseconds(structure, profile)
        step = max(8, cost.model.alignment)
        return solve(structure, cost, self.scores, share * cost.total({}), round_to=step).counts


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
