"""Recipes: every open point of Meta-Vote Pruning as a field, and the settings worth a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from mvp_deploy.base.bounds import NEIGHBOURS, ROUNDS, SHARE
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Within
from mvp_deploy.base.settings import Settings, described, setting
from mvp_deploy.pruning.config import Criterion

EVEN = 100.0  # training images


@dataclass(frozen=True)
class Recipe(Settings):
    """How a new task's model is made from its neighbours'. A field's default is what docs/voting.md found for votes."""

    votes: Literal["mask", "score", "lent", "none"] = setting(
        "mask",
        "Neighbours say what they kept ('mask') or how important it was ('score'), or lend their importances, which "
        "then count beside the target's own ('lent'); 'none' asks nobody.",
    )
    nearest_by: Literal["prototypes", "leep", "features", "random", "farthest"] = setting(
        "features",
        "How neighbours are chosen: similarity of class prototypes; over a short list of these, LEEP or how well a "
        "neighbour's features tell the target's classes apart (prototypes, if the classifier is not a linear layer); "
        "or the controls 'random' and 'farthest'.",
    )
    neighbours: Annotated[int, NEIGHBOURS] = setting(20, "How many tasks vote; 0: every task of the bank.")
    weighting: Literal["plain", "similarity", "lead"] = setting(
        "lead",
        "Neighbours count the same, by their similarity, or the nearest as much as all others together.",
    )
    select: Literal["top", "sample"] = setting(
        "top", "In each group the best units stay, or units are sampled from the softmax of their votes."
    )
    own: Annotated[float, SHARE] = setting(
        0.0, "Share of the target's own importance in the score, 0 (votes alone) to 1 (own alone)."
    )
    criterion: Criterion = setting("taylor", "The target's own importance.")
    even: Annotated[float, Within(0.0, 1e9)] = setting(
        EVEN,
        "With 'lent', the number of training images at which own and lent importance count the same: of n images, own "
        f"has n / (n + even) of the say. 0: what `bank evaluate` found for the bank, or else {EVEN:g}.",
    )
    scope: Literal["uniform", "global", "neighbours"] = setting(
        "uniform",
        "Each group keeps the same fraction, one threshold for all groups on own importance per cost, or fractions "
        "proportional to what the neighbours kept.",
    )
    weights: Literal["average", "nearest", "pretrained"] = setting(
        "average",
        "Initial weights of kept units: averaged over the neighbours that kept them, the nearest neighbour's, or the "
        "pretrained backbone's.",
    )
    head: Literal["fresh", "closed-form", "trained"] = setting(
        "closed-form",
        "A random head to fine-tune, or one solved in closed form on the pruned model's features, and again after "
        "fine-tuning if that saw each image only a few times; or 'trained': the one that came with the weights (taken "
        "by itself if a checkpoint has one).",
    )
    reconstruct: bool = setting(
        True,
        "Re-solve in closed form the layers that lost inputs, so that they give what the unpruned ones gave (if "
        "initial weights are the pretrained backbone's).",
    )
    rounds: Annotated[int, ROUNDS] = setting(
        1,
        "Cut in so many rounds where the task's own importance decides alone and the budget is a cost, which falls "
        "geometrically: each re-solves the layers and scores what is left. With rivals, whether one round is better is "
        "for the training images to say.",
    )
    norms: Literal["auto", "frozen", "recomputed", "trained"] = setting(
        "auto",
        "Batch norms keep the pretrained statistics ('frozen'), have them recomputed before and after fine-tuning, or "
        "follow the batches ('trained'); 'auto': whichever the training images favour.",
    )
    judged: bool = setting(
        True,
        "Two trainings, a bold and a careful one, are judged by training images set aside; the better one's way is "
        "taken on all images, and if neither helps the model stays untuned. Without it the bold one is taken.",
    )
    distill: Annotated[float, SHARE] = setting(
        0.0, "Weight of distillation from the unpruned model during fine-tuning; 0: none."
    )
    lean: Annotated[float, SHARE] = setting(
        0.0, "With too few or too distant neighbours, raise own to this share; 0: only warn."
    )
    rivals: bool = setting(
        False,
        "The task's own importance by taylor and by obs, re-solved (one threshold if the budget is a cost), and what "
        "neighbours lend stand beside the votes, or take their place if nobody can be asked; of these ways the one is "
        "taken whose head in closed form has the least leave-one-out loss on the training images.",
    )
    ladder: bool = setting(
        False, "If the bank's ladder has a model of exactly this budget, start from it and ask nobody."
    )
    name: str = "custom"  # as in RECIPES, where it started from one

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
        alone = self.criterion if self.scope == "uniform" else f"{self.criterion} under one threshold"
        return alone if self.rounds == 1 else f"{alone} in {self.rounds} rounds"

    def ways(self, neighbours: bool, of: str) -> tuple[Recipe, ...]:
        """The recipes to choose from by the training images; this one alone unless it has rivals.

        neighbours: whether there are any to ask. of: what the budget counts; one of units is shared evenly among
            groups, since the units that bring least are those that cost most.
        """
        asked = neighbours and self.asks_neighbours
        itself = replace(self, rivals=False)
        if not self.rivals:
            return (itself,)
        scope: Literal["uniform", "global"] = "uniform" if of == "units" else "global"
        alone = replace(itself, votes="none", neighbours=0, own=1.0, weights="pretrained", scope=scope)
        others = tuple(replace(alone, criterion=criterion) for criterion in ("taylor", "obs"))
        lent = replace(itself, votes="lent", weights="pretrained", scope=scope)
        return (itself, lent, *others) if asked else others


_OWN = Recipe(name="own", votes="none", neighbours=0, own=1.0, weights="pretrained")
_PUBLISHED = Recipe(
    nearest_by="leep", neighbours=5, weighting="plain", head="fresh", reconstruct=False, norms="trained", judged=False
)
_NAMED = (
    Recipe(name="default", ladder=True, rivals=True, rounds=3, even=0.0),
    # Zhao et al. 2023 (arXiv 2301.11560): LEEP neighbours, units sampled from the softmax of plain votes per layer,
    # weights averaged over the neighbours that kept the unit, a new head, fine-tuning.
    replace(_PUBLISHED, name="paper", select="sample"),
    # Zhao and Long 2023 (arXiv 2307.04365): score votes prune the pretrained model once.
    replace(_PUBLISHED, name="one-shot", votes="score", weights="pretrained"),
    # Asks nobody: one threshold on the rise in loss per cost, then reconstruction. Better than Taylor with ImageNet
    # weights; on a small transformer level untuned (docs/pretrained.md).
    replace(_OWN, name="compensated", criterion="obs", scope="global"),
    # The neighbours' importances and the target's own, under one threshold, then reconstruction.
    Recipe(name="lent", votes="lent", weights="pretrained", scope="global", even=0.0),
    _OWN,
    replace(_OWN, name="magnitude", criterion="magnitude"),
    replace(_OWN, name="random", criterion="random"),
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _NAMED}


def recipe_named(name: str, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, with fields changed as 'field=value' says. Raises InputError if there is none."""
    if name not in RECIPES:
        raise InputError(f"There is no recipe '{name}'. Choose from: {', '.join(RECIPES)}.")
    return changed(RECIPES[name], changes)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with fields set as 'field=value' says. Raises InputError for an unknown field or value."""
    known = described(Recipe)
    values: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in known:
            raise InputError(f"A recipe has no field '{name}'. It has: {', '.join(known)}.")
        kind: Any = type(known[name].default)
        try:
            values[name] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError) as error:
            raise InputError(f"A recipe's {name} is {_KINDS[kind]}, not '{text}'.") from error
    return replace(recipe, **values)


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
