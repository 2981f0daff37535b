"""Fine-tuning that cannot end worse than it began, as far as training images can tell.

A part of them is set aside. On it the learning rate is found, and whether batch norms train, by short trials; then the
best state of the training is kept, the untuned one included.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvp_deploy.base.files import write_text
from mvp_deploy.base.formats import Count, Within, read_json
from mvp_deploy.pruning.head import finish, recalibrate, solve_head
from mvp_deploy.pruning.norms import has_batch_norms
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.tasks import Images
from mvp_deploy.training import Diverged, FitResult, Progress, TrainConfig, fit

SET_ASIDE = 0.2  # of each class
LEAST_ASIDE = 5  # images; fewer say nothing
TOO_FEW = f"fewer than {LEAST_ASIDE} images could be set aside to judge tuning by"
RATES = (1.0, 0.25, 0.0625)  # of the configured learning rate
TRIAL = 0.1  # of the steps, for each learning rate
LEAST_TRIAL = 8  # steps; fewer say little
MOST_TRIAL = 1 / 8  # of the steps: with four trials, they take half as long as the training at most


@dataclass(frozen=True)
class Judgement:
    """Of the images set aside: cross-entropy in nats, and the share classified rightly."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Choice:
    """What the trials found best: the highest learning rate, and whether batch norms keep their statistics."""

    lr: Annotated[float, Within(0, 1e6)]
    frozen_norms: bool

    def applied(self, config: TrainConfig) -> TrainConfig:
        return replace(config, lr=self.lr, norms="frozen" if self.frozen_norms else "trained")


@dataclass(frozen=True)
class Trials:
    """What a killed call goes on from: the choice, and the steps that its trials took."""

    choice: Choice
    steps: Count


@dataclass(frozen=True)
class Tuned:
    """What tuning did. steps: all that were taken, trials included; kept: the step whose state was kept, 0 being the
    untuned one. before, after: judged on the images set aside; None where none were. untuned: why, where no choice was
    made."""

    steps: int
    kept: int
    seconds: float
    final_loss: float | None
    choice: Choice | None
    before: Judgement | None
    after: Judgement | None
    untuned: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tuned:
        """The inverse of `dataclasses.asdict`."""
        choice, before, after = data["choice"], data["before"], data["after"]
        return cls(
            **{
                **data,
                "choice": Choice(**choice) if choice else None,
                "before": Judgement(**before) if before else None,
                "after": Judgement(**after) if after else None,
            }
        )

    @property
    def told(self) -> str:
        """What to say of it after an accuracy."""
        if self.choice is None:
            return f"untuned: {self.untuned}"
        if self.kept == 0:
            return "untuned: tuning did not help on images set aside"
        norms = "frozen norms, " if self.choice.frozen_norms else ""
        return f"after {self.kept} steps ({norms}learning rate {self.choice.lr:g})"


def tune(
    model: nn.Module,
    classifier: Sequence[str],
    images: Images,
    config: TrainConfig,
    *,
    norms: str = "auto",
    solved_head: bool = True,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Fine-tune ``model`` in place on four fifths of the images, judged by the rest; it ends in eval mode.

    Args:
        config: its learning rate is the highest that is tried.
        norms: 'frozen' keeps batch-norm statistics, 'trained' lets them follow the batches, 'recomputed' measures them
            again after that; 'auto' does whatever gives the lowest loss on the images set aside.
        solved_head: start from the classifier in closed form, and end with it where it is better than the tuned one.
        checkpoint: see `training.fit`.
    """
    parts = set_aside(images, config.seed) if config.steps else None
    if parts is None:
        if solved_head:
            solve_head(model, classifier, images)
        reason = TOO_FEW if config.steps else "no steps were asked for"
        return Tuned(0, 0, 0.0, None, None, None, None, reason)
    part, aside = parts
    if solved_head:
        solve_head(model, classifier, part)
    before = judged(model, aside)

    def loss(model: nn.Module) -> float:
        now = judged(model, aside)
        return now.loss if now.accuracy >= before.accuracy and math.isfinite(now.loss) else math.inf

    memory = checkpoint.with_suffix(".choice.json") if checkpoint else None
    if memory and memory.exists():
        found = read_json(memory, Trials, cure="remove it and run again")
        choice, tried = found.choice, found.steps
    else:
        choice, tried = _try(model, part, aside, config, norms)
        if memory:
            write_text(memory, json.dumps(asdict(Trials(choice, tried))))
    chosen = choice.applied(config)
    untuned = copy.deepcopy(model.state_dict())
    try:
        done = fit(model, part, chosen, teacher=teacher, judge=loss, checkpoint=checkpoint, progress=progress)
    except Diverged:
        model.load_state_dict(untuned)
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        done = FitResult(0, 0.0, math.nan, 0)
    if done.kept and not choice.frozen_norms and norms in ("auto", "recomputed"):
        anew = copy.deepcopy(model)
        if recalibrate(anew, part, seed=config.seed) and loss(anew) < loss(model):
            model.load_state_dict(anew.state_dict())
    after = judged(model, aside)
    if solved_head and classifier:
        anew = copy.deepcopy(model)
        solve_head(anew, classifier, part)
        if done.kept == 0 or loss(anew) < after.loss:
            after = judged(anew, aside)
            solve_head(model, classifier, images)  # those set aside have judged, and now count as well
    if memory:
        memory.unlink(missing_ok=True)
    final_loss = done.final_loss if math.isfinite(done.final_loss) else None
    return Tuned(done.steps + tried, done.kept, done.seconds, final_loss, choice, before, after)


def set_aside(images: Images, seed: int) -> tuple[Images, Images] | None:
    """Four fifths of the images, and a fifth of each class (of those with two or more, one at least), by ``seed``; None
    where that is fewer than `LEAST_ASIDE`."""
    generator = torch.Generator().manual_seed(seed)
    labels = images.labels.cpu()
    aside = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        where = (labels == label).nonzero().flatten()
        most = max(1, round(SET_ASIDE * len(where))) if len(where) > 1 else 0
        aside[where[torch.randperm(len(where), generator=generator)[:most]]] = True
    if int(aside.sum()) < LEAST_ASIDE:
        return None
    return images.subset((~aside).nonzero().flatten()), images.subset(aside.nonzero().flatten())


@torch.no_grad()
def judged(model: nn.Module, images: Images) -> Judgement:
    """The model in eval mode on ``images``."""
    model.to(images.device).eval()
    loss, right = 0.0, 0
    for x, y in images.passes():
        logits: Tensor = model(x).float()
        loss += float(functional.cross_entropy(logits, y, reduction="sum"))
        right += int((logits.argmax(1) == y).sum())
    return Judgement(loss / len(images), right / len(images))


def _try(model: nn.Module, part: Images, aside: Images, config: TrainConfig, norms: str) -> tuple[Choice, int]:
    """The choice that lowers the loss on ``aside`` most after a few steps, and how many steps that took in all."""
    longest = max(1, int(MOST_TRIAL * config.steps))
    short = replace(config, steps=min(longest, max(LEAST_TRIAL, round(TRIAL * config.steps))), distill=0.0)
    steps = 0

    def outcome(choice: Choice) -> float:
        nonlocal steps
        twin = copy.deepcopy(model)
        steps += short.steps
        try:
            fit(twin, part, choice.applied(short))
        except Diverged:
            return math.inf
        found = judged(twin, aside).loss
        return found if math.isfinite(found) else math.inf

    frozen = norms in ("auto", "frozen") and has_batch_norms(model)
    losses = {choice: outcome(choice) for choice in (Choice(share * config.lr, frozen) for share in RATES)}
    best = min(losses, key=lambda choice: losses[choice])
    if norms == "auto" and frozen:
        other = Choice(best.lr, frozen_norms=False)
        losses[other] = outcome(other)
    return min(losses, key=lambda choice: losses[choice]), steps


def tune_by(
    recipe: Recipe,
    model: nn.Module,
    classifier: Sequence[str],
    images: Images,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Fine-tune a mended model in place as its recipe says; see `tune`."""
    solved = recipe.head == "closed-form"
    if recipe.judged:
        return tune(
            model,
            classifier,
            images,
            config,
            norms=recipe.norms,
            solved_head=solved,
            teacher=teacher,
            checkpoint=checkpoint,
            progress=progress,
        )
    frozen = recipe.norms == "frozen"
    config = Choice(config.lr, frozen).applied(config)
    done = fit(model, images, config, teacher=teacher, checkpoint=checkpoint, progress=progress)
    finish(model, classifier, images, config, statistics=recipe.norms in ("auto", "recomputed"), head=solved)
    return Tuned(done.steps, done.kept, done.seconds, done.final_loss, Choice(config.lr, frozen), None, None)
