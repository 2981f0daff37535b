"""Fine-tuning that cannot end worse than it began, as far as training images can tell.

A part of them is set aside. Two trainings are judged by it: a bold one, whose batch norms follow the batches, and a
careful one, AdamW with a low learning rate and frozen norms; of each, the head that was trained and one solved again
in closed form. The best one's way is gone on all images; where none helps, the model stays untuned. (Trials are as
long as the training: shorter ones favour low rates, since what a high one has upset is not yet made up for; see
docs/pretrained.md.) Layers that were re-solved on all images know those set aside too, so trials start from a model
that was re-solved without them. A head of the user's own may have been trained on them: where it beats one in closed
form on them, whether tuning helps is judged by heads in closed form, before and after.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.nn import functional

from mvp_deploy.base.devices import full_float32
from mvp_deploy.base.files import write_text
from mvp_deploy.base.formats import Share, Within, read_json
from mvp_deploy.pruning.head import finish, recalibrate, solve_head
from mvp_deploy.pruning.norms import has_batch_norms
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.tasks import Images
from mvp_deploy.training import Diverged, FitResult, Progress, TrainConfig, fit

SET_ASIDE = 0.2  # of each class
LEAST_ASIDE = 10  # images; five took trainings that cost up to six points (docs/pretrained.md)
CAREFUL = {"sgd": 0.006, "adamw": 1 / 8}  # AdamW's learning rate, of the configured optimizer's
SCALES = (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # of logits, to judge them by
TOO_FEW = f"fewer than {LEAST_ASIDE} images could be set aside to judge tuning by"


@dataclass(frozen=True)
class Judgement:
    """Of the images set aside: cross-entropy in nats, which decides, and the share classified rightly.

    One image among eighty changes its answer by chance: judged by answers too, trainings were refused that gave
    3 points on held-out images (docs/pretrained.md). The cross-entropy is that of the logits scaled as suits these
    images best (temperature scaling, Guo et al. 2017, arXiv 1706.04599): a long training is sure of itself, which costs
    loss but no answers.
    """

    loss: Annotated[float, Within(0, 1e9)]
    accuracy: Share

    def no_worse_than(self, other: Judgement) -> bool:
        return self.loss <= other.loss


WORST = Judgement(1e9, 0.0)
MadeOf = Callable[[Images], nn.Module]


@dataclass(frozen=True)
class Choice:
    """What a trial is of: the highest learning rate, whether batch norms keep their statistics, the optimizer.

    head: 'solved' if the trained one is replaced in the end by one in closed form, on the features as they are now.
    """

    lr: Annotated[float, Within(0, 1e6)]
    frozen_norms: bool
    optimizer: Literal["sgd", "adamw"] = "sgd"
    head: Literal["trained", "solved"] = "trained"

    def applied(self, config: TrainConfig) -> TrainConfig:
        norms: Literal["frozen", "trained"] = "frozen" if self.frozen_norms else "trained"
        return replace(config, lr=self.lr, norms=norms, optimizer=self.optimizer)


@dataclass(frozen=True)
class Trials:
    """What a killed call goes on from: the better trial, and what was judged before it and after."""

    choice: Choice
    before: Judgement
    after: Judgement


@dataclass(frozen=True)
class Tuned:
    """What tuning did.

    steps: all that were taken, trials included; kept: those that the model has seen, 0 if it stayed untuned. before,
    after: judged on the images set aside; None if there were none. untuned: why, if no choice was made. trial: the
    chosen trial's, on those images: unlike the final model, it has not learned of them.
    """

    steps: int
    kept: int
    seconds: float
    final_loss: float | None
    choice: Choice | None
    before: Judgement | None
    after: Judgement | None
    untuned: str = ""
    trial: Judgement | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tuned:
        """The inverse of `dataclasses.asdict`."""
        choice, before, after, trial = data["choice"], data["before"], data["after"], data.get("trial")
        return cls(
            **{
                **data,
                "choice": Choice(**choice) if choice else None,
                "before": Judgement(**before) if before else None,
                "after": Judgement(**after) if after else None,
                "trial": Judgement(**trial) if trial else None,
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
        head = ", head solved again" if self.choice.head == "solved" else ""
        return f"after {self.kept} steps of {self.choice.optimizer} ({norms}learning rate {self.choice.lr:g}{head})"


def tune(
    model: nn.Module,
    classifier: Sequence[str],
    images: Images,
    config: TrainConfig,
    *,
    norms: str = "auto",
    solved_head: bool = True,
    made_of: MadeOf | None = None,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Fine-tune ``model`` in place, if that helps on images set aside; it ends in eval mode.

    Args:
        model: with its head. Trials, which must not know the images set aside, solve it again without them.
        config: of the bold training; the careful one's learning rate is lower.
        norms: 'frozen' keeps batch-norm statistics, 'trained' lets them follow the batches, 'recomputed' measures them
            again after that; 'auto' does what helps most on the images set aside.
        solved_head: whether the head is one in closed form on ``images``; else it is trained, maybe on these too.
        made_of: gives the untuned model as it is when made of fewer images; trials start from that of all but those set
            aside. By default from ``model``, which suits one that no images but the head's had part in.
        checkpoint: see `training.fit`.
        progress: of all steps, those of the trials included.
    """
    parts = set_aside(images, config.seed) if config.steps else None
    if parts is None:
        model.eval()
        reason = TOO_FEW if config.steps else "no steps were asked for"
        return Tuned(0, 0, 0.0, None, None, None, None, reason)
    part, aside = parts
    untuned = copy.deepcopy(model)

    choices = _choices(model, config, norms)

    def trained(
        model: nn.Module, images: Images, choice: Choice, config: TrainConfig, place: int, **how: Any
    ) -> FitResult:
        def told(done: int, total: int, loss: float) -> None:
            if progress:
                progress(place * total + done, (len(choices) + 1) * total, loss)

        statistics = not choice.frozen_norms and norms in ("auto", "recomputed")
        if statistics and recalibrate(model, images, seed=config.seed) and solved_head:
            solve_head(model, classifier, images)  # for features as batches' own statistics give them in training
        done = fit(model, images, choice.applied(config), progress=told, **how)
        if statistics:  # running ones lag behind weights that moved in few steps
            recalibrate(model, images, seed=config.seed)
        if choice.head == "solved":
            solve_head(model, classifier, images)
        return done

    def trial(place: int, choice: Choice) -> dict[Choice, Judgement]:
        twin = copy.deepcopy(start)
        try:
            trained(twin, part, choice, replace(config, distill=0.0), place)
        except Diverged:
            return {choice: WORST}
        found = {choice: judged(twin, aside)}
        if solve_head(twin, classifier, part):
            found[replace(choice, head="solved")] = judged(twin, aside)
        return found

    memory = checkpoint.with_suffix(".choice.json") if checkpoint else None
    if memory and memory.exists():
        found = read_json(memory, Trials, cure="remove it and run again")
        choice, before, after = found.choice, found.before, found.after
    else:
        start = made_of(part) if made_of else copy.deepcopy(model)
        if solved_head:
            solve_head(start, classifier, part)
        before, knows = judged(start, aside), False
        unknowing = copy.deepcopy(start)
        if not solved_head and solve_head(unknowing, classifier, part):
            other = judged(unknowing, aside)
            if before.loss < other.loss:
                before, knows = other, True
        outcomes = {way: found for place, choice in enumerate(choices) for way, found in trial(place, choice).items()}
        choice = min(outcomes, key=lambda choice: outcomes[choice].loss)
        after = outcomes.get(replace(choice, head="solved") if knows else choice, WORST)
        if memory:
            write_text(memory, json.dumps(asdict(Trials(choice, before, after))))
    tried, best = len(choices) * config.steps, after
    done = FitResult(0, 0.0, math.nan, 0)
    if after.no_worse_than(before):
        try:
            done = trained(model, images, choice, config, len(choices), teacher=teacher, checkpoint=checkpoint)
        except Diverged:
            after = WORST
        else:
            after = judged(model, aside)  # of which it has learned by now, as the untuned head has
    if not after.no_worse_than(before):
        model.load_state_dict(untuned.state_dict())
        model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        done, after = replace(done, kept=0), before
    if memory:
        memory.unlink(missing_ok=True)
    final_loss = done.final_loss if math.isfinite(done.final_loss) else None
    return Tuned(done.steps + tried, done.kept, done.seconds, final_loss, choice, before, after, trial=best)


def _choices(model: nn.Module, config: TrainConfig, norms: str) -> list[Choice]:
    """The bold training and the careful one; those with other norms than are asked for become like them."""
    frozen = norms == "frozen" or not has_batch_norms(model)
    careful = norms in ("auto", "frozen")
    return [
        Choice(config.lr, frozen, config.optimizer),
        Choice(CAREFUL[config.optimizer] * config.lr, careful, "adamw"),
    ]


def set_aside(images: Images, seed: int) -> tuple[Images, Images] | None:
    """Four fifths of the images, and a fifth of each class (of those with two or more, one at least), by ``seed``.

    None where a fifth is fewer than `LEAST_ASIDE` images.
    """
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


@full_float32()
@torch.no_grad()
def judged(model: nn.Module, images: Images) -> Judgement:
    """The model in eval mode on ``images``."""
    model.to(images.device).eval()
    outputs = [(model(x).double(), y) for x, y in images.passes()]
    logits, labels = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    loss = min(float(functional.cross_entropy(scale * logits, labels)) for scale in SCALES)
    return Judgement(loss, float((logits.argmax(1) == labels).double().mean())) if loss < WORST.loss else WORST


def tune_by(
    recipe: Recipe,
    model: nn.Module,
    classifier: Sequence[str],
    images: Images,
    config: TrainConfig,
    *,
    made_of: MadeOf | None = None,
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
            made_of=made_of,
            teacher=teacher,
            checkpoint=checkpoint,
            progress=progress,
        )
    frozen = recipe.norms == "frozen"
    choice = Choice(config.lr, frozen, config.optimizer)
    config = choice.applied(config)
    done = fit(model, images, config, teacher=teacher, checkpoint=checkpoint, progress=progress)
    finish(model, classifier, images, config, statistics=recipe.norms in ("auto", "recomputed"), head=solved)
    return Tuned(done.steps, done.kept, done.seconds, done.final_loss, choice, None, None)
