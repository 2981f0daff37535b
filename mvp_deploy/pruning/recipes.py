"""Recipes: every open point of Meta-Vote Pruning as a field, and the settings worth a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Literal, get_args, get_type_hints

from mvp_deploy.base.bounds import NEIGHBOURS
from mvp_deploy.base.errors import InputError

Criterion = Literal["taylor", "obs", "activation", "magnitude", "random"]  # importance.CRITERIA, known without torch
CRITERIA: tuple[str, ...] = get_args(Criterion)


@dataclass(frozen=True)
class Recipe:
    """How a new task's model is made from its neighbours'.

    votes: neighbours say what they kept ('mask') or how important it was ('score'), or lend their importances, which
        then count beside the target's own ('lent'); 'none' asks nobody.
    nearest_by: how neighbours are chosen: similarity of class prototypes; over a short list of these, LEEP or how
        well a neighbour's features tell the target's classes apart (where the classifier is a linear layer, else
        prototypes); or the controls 'random' and 'farthest'.
    neighbours: how many (0: every task of the bank).
    weighting: neighbours count alike, by their similarity, or the nearest as much as all others together.
    select: in each group the best units stay, or units are sampled from the softmax of their votes.
    own: share of the target's own importance in the score, 0 (votes alone) to 1 (own alone).
    criterion: the target's own importance: taylor, obs, activation, magnitude or random.
    even: with 'lent', the number of training images at which own and lent importance count the same: of n images, own
        has n / (n + even) of the say. `bank evaluate` finds what suits a bank.
    scope: each group keeps the same fraction, one threshold for all groups on own importance per cost, or fractions
        proportional to what the neighbours kept.
    weights: initial weights of kept units: averaged over the neighbours that kept them, the nearest
        neighbour's, or the pretrained backbone's.
    head: a fresh random head to fine-tune, or one solved in closed form on the pruned model's features, and again
        after fine-tuning where that saw the images a few times only; or 'trained': the one that came with the weights
        (taken by itself where a checkpoint has one).
    reconstruct: re-solve in closed form the layers that lost inputs, so that they give what the unpruned ones gave
        (where initial weights are the pretrained backbone's).
    norms: batch norms keep the pretrained statistics ('frozen'), have them measured anew before fine-tuning and after
        it ('recomputed'), or let them follow the batches ('trained'); 'auto': whichever the training images favour.
    judged: two trainings of half the length, a bold and a careful one, are judged by training images set aside; the
        better one's way is gone on all images, and where neither helps the model stays untuned. Without it the bold
        one is taken.
    distill: weight of distillation from the unpruned model during fine-tuning (0: none).
    rivals: the task's own importance by taylor and by obs, re-solved (one threshold if the budget is a cost), takes the
        votes' place where nobody can be asked ('alone'), or stands beside them ('always'); of these ways the one goes
        on whose head in closed form has the least leave-one-out loss on the training images. 'never': none do.
    ladder: where the bank has a ladder with a rung of the very budget, start from its model, and ask nobody.
    lean: with too few or too distant neighbours, raise ``own`` to this share (0: never, only warn).

    The defaults follow docs/voting.md.
    """

    votes: Literal["mask", "score", "lent", "none"] = "mask"
    nearest_by: Literal["prototypes", "leep", "features", "random", "farthest"] = "features"
    neighbours: int = 20
    weighting: Literal["plain", "similarity", "lead"] = "lead"
    select: Literal["top", "sample"] = "top"
    own: float = 0.0
    criterion: Criterion = "taylor"
    even: float = 100.0
    scope: Literal["uniform", "global", "neighbours"] = "uniform"
    weights: Literal["average", "nearest", "pretrained"] = "average"
    head: Literal["fresh", "closed-form", "trained"] = "closed-form"
    reconstruct: bool = True
    norms: Literal["auto", "frozen", "recomputed", "trained"] = "auto"
    judged: bool = True
    distill: float = 0.0
    lean: float = 0.0
    rivals: Literal["never", "alone", "always"] = "never"
    ladder: bool = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(hints[field.name])
            if allowed and value not in allowed:
                raise InputError(f"A recipe's {field.name} is one of {', '.join(allowed)}, not {value!r}.")
        NEIGHBOURS.require("a recipe's neighbours", self.neighbours)
        if not 0 < self.even < inf:
            raise InputError(f"A recipe's even is a number of images above 0, not {self.even}.")
        for name in ("own", "lean", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"A recipe's {name} is a share between 0 and 1, not {getattr(self, name)}.")

    @property
    def asks_neighbours(self) -> bool:
        return self.votes != "none"

    @property
    def way(self) -> str:
        """Who decides what stays, in a few words."""
        if self.votes == "lent":
            return "lent importance"
        if self.asks_neighbours:
            return "votes"
        return self.criterion if self.scope == "uniform" else f"{self.criterion} under one threshold"

    def ways(self, neighbours: bool, of: str) -> tuple[Recipe, ...]:
        """The recipes to choose from by the training images; this one alone unless it has rivals.

        neighbours: whether there are any to ask. of: what the budget counts; one of units is shared alike among groups,
        since the units that bring least are those that cost most.
        """
        asked = neighbours and self.asks_neighbours
        itself = replace(self, rivals="never")
        if self.rivals == "never" or (self.rivals == "alone" and asked):
            return (itself,)
        scope: Literal["uniform", "global"] = "uniform" if of == "units" else "global"
        alone = replace(itself, votes="none", neighbours=0, own=1.0, weights="pretrained", scope=scope)
        others = tuple(replace(alone, criterion=criterion) for criterion in ("taylor", "obs"))
        lent = replace(itself, votes="lent", weights="pretrained", scope=scope)
        return (itself, lent, *others) if asked else others


_ALONE = Recipe(votes="none", neighbours=0, own=1.0, weights="pretrained")

RECIPES: Mapping[str, Recipe] = {
    "default": Recipe(ladder=True, rivals="alone"),
    # Zhao et al. 2023 (arXiv 2301.11560): LEEP neighbours, units sampled from the softmax of plain votes per layer,
    # weights averaged over the neighbours that kept the unit, a new head, fine-tuning.
    "paper": Recipe(
        nearest_by="leep",
        neighbours=5,
        weighting="plain",
        select="sample",
        own=0.0,
        weights="average",
        head="fresh",
        reconstruct=False,
        norms="trained",
        judged=False,
    ),
    # Zhao and Long 2023 (arXiv 2307.04365): score votes prune the pretrained model once.
    "one-shot": Recipe(
        votes="score",
        nearest_by="leep",
        neighbours=5,
        weighting="plain",
        own=0.0,
        weights="pretrained",
        head="fresh",
        reconstruct=False,
        norms="trained",
        judged=False,
    ),
    # Asks nobody: one threshold on the rise in loss per cost, then reconstruction. Better than Taylor on
    # one net with ImageNet weights, untuned; on a small transformer Taylor was (docs/pretrained.md).
    "compensated": replace(_ALONE, criterion="obs", scope="global"),
    # The neighbours' importances and the target's own, under one threshold, then reconstruction.
    "lent": Recipe(votes="lent", weights="pretrained", scope="global"),
    "own": _ALONE,
    "magnitude": replace(_ALONE, criterion="magnitude"),
    "random": replace(_ALONE, criterion="random"),
}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; MvpError where there is none."""
    if name not in RECIPES:
        raise InputError(f"There is no recipe '{name}'. Choose from: {', '.join(RECIPES)}.")
    return RECIPES[name]


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with fields set as 'field=value' says; MvpError where a field or value is not one of it."""
    values: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in {field.name for field in fields(recipe)}:
            raise InputError(
                f"A recipe has no field '{name}'. It has: {', '.join(field.name for field in fields(recipe))}."
            )
        kind = type(getattr(recipe, name))
        try:
            values[name] = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError) as error:
            raise InputError(f"A recipe's {name} is {_KINDS[kind]}, not '{text}'.") from error
    return replace(recipe, **values)


_BOOLEANS = {"true": True, "false": False}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
