"""A task's pruned model before fine-tuning, and the best of several ways to it by the training images alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from mvp_deploy.base.errors import InputError, LatencyError
from mvp_deploy.base.reporter import Reporter, Silent
from mvp_deploy.pruning.blocks import Worth
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.importance import require_numbers
from mvp_deploy.pruning.kept import kept
from mvp_deploy.pruning.mvp import (
    Allocation,
    Decision,
    cut,
    decide,
    give_head,
    importances,
    in_rounds,
    made_of,
    re_solve,
    settle_norms,
    worth_of_blocks,
)
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.pruning.reconstruction import FEW, MANY
from mvp_deploy.pruning.tuning import MadeOf, judged
from mvp_deploy.pruning.votes import Voter
from mvp_deploy.pruning.yardstick import Yardstick, measurable
from mvp_deploy.tasks import Images


@dataclass(frozen=True, eq=False)
class Made:
    """A pruned model before fine-tuning.

    recipe: how it was made. steps: what each step gave; 'ways' are the losses it was chosen by. loss: cross-entropy on
    the training images, in nats: leave-one-out of a head in closed form, or, where the classifier is not one linear
    layer, of the trained head; None without either.
    """

    recipe: Recipe
    decision: Decision
    model: nn.Module
    steps: dict[str, Any]
    loss: float | None

    def of_fewer(self, original: Original, seed: int = 0) -> MadeOf | None:
        """Gives the model as fewer images make it, for `tuning.tune`; None where it is made of neighbours' weights."""
        if self.decision.initial != "pretrained":
            return None
        return partial(made_of, original, self.decision.plan, self.recipe, seed=seed)

    @property
    def way(self) -> str:
        """Who decided what stays, in a few words."""
        return f"{self.recipe.way} and whole blocks" if self.decision.plan.without else self.recipe.way


def make(
    original: Original,
    train: Images,
    voters: Sequence[Voter],
    recipe: Recipe,
    budget: Budget,
    *,
    too_distant: bool = False,
    importance: Callable[[str], Scores] | None = None,
    allocate: Allocation | None = None,
    worth: Callable[[], Worth | None] | None = None,
    memory: Path | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Made:
    """Decide which units stay, cut, and mend; of the recipe's ways (`Recipe.ways`) the one with the least loss.

    Rivals are tried in one round each; then the best of those that ask nobody in the recipe's rounds, which may lose.
    All are re-solved on few images, the best one again on many.

    What a block's removal costs is predicted too low where the task is easy. So a plan without some blocks has a rival
    that keeps all; and where no loss can judge (`Made.loss`), none goes.

    Args:
        voters, too_distant: see `mvp.decide`.
        allocate: see `mvp.decide`; one recipe is tried then, in one round and in its rounds.
        importance: gives the target's own by a criterion; by default as `mvp.importances` does.
        worth: gives what whole blocks are worth; by default as `mvp.worth_of_blocks` does.
        memory: a folder of this work alone, where what was decided is kept: a killed call does not decide it again.
        reporter: shown how many ways are done; under a budget of time ``allocate`` tells more.
    """
    require_numbers(original.model)
    ways = recipe.ways(bool(voters), budget.of)
    if budget.fraction == 1 and recipe.head == "trained" and allocate is None:  # nothing is cut: it stays as it is
        return Made(recipe, decide(original, train, (), ways[-1], budget, seed=seed), original.copy(), {}, None)
    yardstick = Yardstick(original, train) if measurable(original) else None
    judges = yardstick is not None or original.trained
    known = cache(importance) if importance else importances(original, train, seed=seed)
    of_blocks = worth or partial(worth_of_blocks, original, train, seed=seed)

    def one(way: Recipe, *, blocks: bool = False) -> Made:
        own = partial(known, way.criterion)
        if way.rounds > 1 and not way.asks_neighbours and budget.of != "units":
            choose = partial(in_rounds, original, train, way, budget, own, allocate=allocate, seed=seed)
        else:
            choose = partial(
                decide, original, train, voters, way, budget, too_distant=too_distant,
                importance=own, allocate=allocate, worth=of_blocks if blocks else None, seed=seed,
            )  # fmt: skip
        name = f"{way.way}{' and blocks' if blocks else ''}".replace(" ", "-")
        file = memory / f"{name}.json" if memory and not way.asks_neighbours else None
        return mended(way, kept(file, choose))

    def mended(way: Recipe, decision: Decision, *, last: bool = False) -> Made:
        model = cut(original, decision)
        done = re_solve(model, original, train, decision, way, most=MANY if last else FEW, seed=seed)
        if last or not done:  # a rival that was re-solved is judged as it is
            settle_norms(model, original, train, way, seed=seed)
        found = yardstick.measure(model, decision.plan) if yardstick else None
        steps = {"reconstruction": asdict(done) | (asdict(found) if found else {})} if done else {}
        own = judged(model, train).loss if judges and not found else None
        return Made(way, decision, model, steps, found.loo_loss if found else own)

    made: list[Made] = []

    def attempt(way: Recipe, *, blocks: bool = False) -> None:
        step(len(made), most + 1)
        made.append(one(way, blocks=blocks))

    in_rounds_too = recipe.rounds > 1 and budget.of != "units"
    most = len(ways) + in_rounds_too if judges and budget.fraction < 1 and len(ways) > 1 else 1
    shown = reporter if reporter and allocate is None else Silent()
    with shown.progress("ways to cut") as step:
        if allocate is not None:  # which takes rises in loss, that add up: the last of the ways that ask nobody
            way = ways[0] if ways[0].asks_neighbours else ways[-1]
            once = replace(way, rounds=1)
            attempt(once, blocks=judges)
            rivals = [once] if made[0].decision.plan.without else []
            if judges and way.rounds > 1 and not way.asks_neighbours and made[0].decision.plan != original.full:
                rivals.append(way)
            for rival in rivals:
                with suppress(InputError, LatencyError):  # all blocks may take too long
                    attempt(rival)
        elif budget.fraction == 1:
            attempt(replace(ways[0], rounds=1))
        elif not judges:
            attempt(ways[0])
        elif len(ways) > 1:
            for way in ways:
                attempt(replace(way, rounds=1))
            alone = min((each for each in made if not each.recipe.asks_neighbours), key=lambda each: each.loss or 0.0)
            if in_rounds_too:
                attempt(replace(alone.recipe, rounds=recipe.rounds))
        else:
            attempt(ways[0])
        step(most, most + 1)
        best = min(made, key=lambda each: each.loss or 0.0)
        if "reconstruction" in best.steps:
            best = mended(best.recipe, best.decision, last=True)
        give_head(best.model, original, train, best.recipe)
        if yardstick:
            best.steps["unpruned"] = asdict(yardstick.unpruned)
            best.steps["cut"] = asdict(yardstick.measure(cut(original, best.decision), best.decision.plan))
        step(most + 1, most + 1)
    if len(made) > 1:
        best.steps["ways"] = {each.way: each.loss for each in made}
    return best


def chosen(ways: Mapping[str, float]) -> str:
    """Which of the ways was taken, as a sentence; ``ways``: the loss of each (`Made.loss`)."""
    least = min(ways, key=lambda way: ways[way])
    if "votes" in ways and least != "votes":
        rivals = f"{ways['votes']:.3f} against {ways[least]:.3f}"
        return f"the neighbours' votes lost to {least} by loss on the training images: {rivals}"
    others = ", ".join(f"{way} {loss:.3f}" for way, loss in ways.items() if way != least)
    return f"{least} had the least loss on the training images: {ways[least]:.3f} ({others})"
