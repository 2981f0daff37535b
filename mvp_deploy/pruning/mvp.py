"""Meta-Vote Pruning: neighbours' votes become a keep plan, the plan a smaller model ready to fine-tune.

Zhao, Zhou, Long, Jiang, Zhang, ECML-PKDD 2023 (arXiv 2301.11560); the open points are a `Recipe`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.pruning import blocks, knapsack, votes
from mvp_deploy.pruning import budget as budgets
from mvp_deploy.pruning.blocks import Worth
from mvp_deploy.pruning.budget import Budget, Scores
from mvp_deploy.pruning.head import separability, solve_head
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.norms import recalibrate, recalibrate_if_better
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import EVEN, Recipe
from mvp_deploy.pruning.reconstruction import FEW, MANY, Reconstruction, reconstruct
from mvp_deploy.pruning.tuning import judged
from mvp_deploy.pruning.votes import Voter
from mvp_deploy.structure import KeepPlan, Structure, gather, scatter
from mvp_deploy.tasks import Images


class Allotment(Protocol):
    """How many units each group keeps, and which blocks go whole."""

    @property
    def counts(self) -> Mapping[str, int]: ...

    @property
    def without(self) -> frozenset[str]: ...

    @property
    def told(self) -> Mapping[str, Any]:
        """What run.json says of it."""


class Allocation(Protocol):
    """Allots by what units are worth, and blocks too where that is known in the same unit of measure."""

    def __call__(
        self, scores: Scores, worth: Worth | None = None, *, within: KeepPlan | None = None, part: float = 1.0
    ) -> Allotment:
        """Allot at most what ``within`` keeps; below 1, ``part`` is how far to go on the way to the budget."""


ENOUGH_VOTERS = 2  # fewer neighbours than this are too few to outvote one bad one


@dataclass(frozen=True)
class Decision:
    """What was decided and by whom.

    voters: who voted, weight: how much each counted. unanimity: per group, the voters' mean agreement on the kept
    units. own: the share the target's own importance really had. warnings: sentences. allotted: what an `Allotment`
    says of itself.
    """

    plan: KeepPlan
    voters: tuple[Voter, ...]
    weights: tuple[float, ...]
    unanimity: Mapping[str, float]
    own: float
    initial: str  # where initial weights come from
    warnings: tuple[str, ...] = field(default=())
    allotted: Mapping[str, Any] = field(default_factory=dict)


def decide(
    original: Original,
    train: Images,
    voters: Sequence[Voter],
    recipe: Recipe,
    budget: Budget,
    *,
    too_distant: bool = False,
    importance: Callable[[], Scores] | None = None,
    allocate: Allocation | None = None,
    worth: Callable[[], Worth | None] | None = None,
    within: KeepPlan | None = None,
    seed: int = 0,
) -> Decision:
    """Choose which units stay.

    voters: nearest first, already chosen; too_distant: they are farther than the bank's tasks are from each other.
    importance: gives the target's own by the recipe's criterion; by default worked out by `own_importance`.
    allocate: how many units each group keeps, from the target's own importance; by default as the recipe's scope says.
    worth: what whole blocks are worth; they may go too, where importance is by 'obs', so in nats, and layers are
        re-solved. None: no block goes.
    within: only units that this plan keeps may stay.
    Without neighbours, the target's own importance decides, with a warning.
    """
    structure = original.structure
    voters = tuple(voters) if recipe.asks_neighbours else ()
    own, initial, warnings = _trust(recipe, voters, too_distant)
    known: Scores = {group.name: np.zeros(group.size) for group in structure.groups}
    lent = recipe.votes == "lent" and bool(voters)
    cuts = allocate is not None or budget.fraction < 1
    if cuts and (own > 0 or recipe.scope == "global" or allocate or lent):
        known = importance() if importance else own_importance(original, train, recipe.criterion, seed=seed)
    if lent and cuts:
        own = len(train) / (len(train) + (recipe.even or EVEN))
        known = votes.beside(known, votes.lent(structure, voters, recipe.weighting), own)
    without, told = frozenset[str](), dict[str, Any]()
    if allocate:
        whole = recipe.criterion == "obs" and recipe.reconstruct and initial == "pretrained" and not lent
        allotted = allocate(known, worth() if worth and whole else None, within=within)
        counts, without, told = allotted.counts, allotted.without, dict(allotted.told)
    else:
        counts = _counts(structure, budget, recipe, voters, known, within)
    wishes = _wishes(structure, recipe, voters, known, own, seed)
    plan = budgets.keep_best(structure, wishes, counts, without=without, within=within, seed=seed)
    weights = tuple(votes.weights(voters, recipe.weighting).tolist())
    return Decision(plan, voters, weights, votes.unanimity(structure, voters, plan), own, initial, warnings, told)


def _wishes(
    structure: Structure, recipe: Recipe, voters: Sequence[Voter], known: Scores, own: float, seed: int
) -> Scores:
    """How much each unit is wanted: by the votes, with the target's own importance for its share."""
    asked = bool(voters) and recipe.votes != "lent"  # what is lent counts in ``known`` already
    wishes = known
    if asked:
        tally = votes.sum_scores if recipe.votes == "score" else votes.count
        wishes = tally(structure, voters, recipe.weighting)
    if recipe.select == "sample" and (voters or not recipe.asks_neighbours):
        wishes = votes.perturb(wishes, seed)
    return votes.blend(wishes, known, own) if asked and own > 0 else wishes


def _counts(
    structure: Structure,
    budget: Budget,
    recipe: Recipe,
    voters: Sequence[Voter],
    known: Scores,
    within: KeepPlan | None,
) -> Mapping[str, int]:
    """How many units each group keeps, by the recipe's scope."""
    if recipe.scope == "global":
        return knapsack.cheapest(structure, budget, known, within=within)
    shares = votes.shares(structure, voters) if recipe.scope == "neighbours" and voters else None
    profile = budgets.uniform(structure) if shares is None else budgets.proportional(structure, shares)
    return budgets.counts_for(structure, budget, profile, within=within)


def own_importance(original: Original, train: Images, criterion: str, *, seed: int = 0) -> Scores:
    """The target's own importance on the pretrained backbone, one-shot: under a head solved in closed form."""
    return importances(original, train, seed=seed)(criterion)


def worth_of_blocks(original: Original, train: Images, *, seed: int = 0) -> Worth | None:
    """What whole blocks are worth to the target on the pretrained backbone, under a head solved in closed form."""
    return blocks.worth(original.headed(train).model, original.structure, train, seed=seed)


def importances(original: Original, train: Images, *, seed: int = 0) -> Callable[[str], Scores]:
    """Gives the target's own importance by any criterion: each is worked out once, all under one solved head."""

    @cache
    def by(criterion: str) -> Scores:
        return score(criterion, original.structure, original.headed(train).model, original.full, train, seed=seed)

    return by


def in_rounds(
    original: Original,
    train: Images,
    recipe: Recipe,
    budget: Budget,
    importance: Callable[[], Scores],
    *,
    shown: Images | None = None,
    allocate: Allocation | None = None,
    seed: int = 0,
) -> Decision:
    """Choose which units stay in the recipe's rounds, the fraction falling geometrically.

    After each but the last the layers are re-solved, and what is left is scored under a head solved again: scores are
    of a model as it is, and say little of it once much has gone.

    Args:
        importance: of the unpruned model's units.
        shown: images that layers are re-solved on, whose labels are not read; by default ``train``.
        allocate: see `decide`; the rounds are parts of the way to its budget.
    """
    structure, plan, model = original.structure, original.full, original.copy()
    for done in range(1, recipe.rounds):
        part = done / recipe.rounds
        share, towards = replace(budget, fraction=budget.fraction**part), allocate and partial(allocate, part=part)
        decision = decide(
            original, train, (), recipe, share, importance=importance, allocate=towards, within=plan, seed=seed
        )
        weights = gather(structure, original.widened(plan, model.state_dict()), decision.plan)
        plan, model = decision.plan, original.pruned(decision.plan, weights)
        re_solve(model, original, shown or train, decision, recipe, seed=seed)
        importance = partial(_of_smaller, original, model, plan, train, recipe.criterion, seed + done)
    return decide(original, train, (), recipe, budget, importance=importance, allocate=allocate, within=plan, seed=seed)


def _of_smaller(
    original: Original, model: nn.Module, plan: KeepPlan, train: Images, criterion: str, seed: int
) -> Scores:
    headed = copy.deepcopy(model)
    solve_head(headed, original.classifier, train)
    return score(criterion, original.structure, headed, plan, train, seed=seed)


def cut(original: Original, decision: Decision) -> nn.Module:
    """The smaller model with its initial weights, and nothing done about what it lost."""
    model = original.pruned(decision.plan)
    if decision.initial != "pretrained":
        voters = decision.voters[:1] if decision.initial == "nearest" else decision.voters
        model.load_state_dict(_averaged(original, decision, voters), strict=True)
    return model


def re_solve(
    model: nn.Module,
    original: Original,
    train: Images,
    decision: Decision,
    recipe: Recipe,
    *,
    most: int = FEW,
    seed: int = 0,
) -> Reconstruction | None:
    """Re-solve the layers that lost inputs on at most ``most`` images, in place.

    Only where the recipe says so and the weights are the backbone's own.
    """
    if not recipe.reconstruct or decision.initial != "pretrained":
        return None
    skip = [] if recipe.head == "trained" else [f"{name}.weight" for name in original.classifier]
    return reconstruct(original.model, original.structure, decision.plan, model, train, most=most, skip=skip, seed=seed)


def made_of(original: Original, plan: KeepPlan, recipe: Recipe, images: Images, *, seed: int = 0) -> nn.Module:
    """The model that ``plan`` cuts from the pretrained one, mended on these images alone."""
    decision = Decision(plan, (), (), {}, 1.0, "pretrained")
    model = cut(original, decision)
    re_solve(model, original, images, decision, recipe, most=MANY, seed=seed)
    settle_norms(model, original, images, recipe, seed=seed)
    give_head(model, original, images, recipe)
    return model


def settle_norms(model: nn.Module, original: Original, train: Images, recipe: Recipe, *, seed: int = 0) -> None:
    """Recompute batch-norm statistics, in place, where the recipe or the training images ask for it."""
    if recipe.norms == "recomputed":
        recalibrate(model, train, seed=seed)
    elif recipe.norms == "auto":
        recalibrate_if_better(model, original.classifier, train, seed=seed)


def give_head(model: nn.Module, original: Original, train: Images, recipe: Recipe) -> None:
    """Solve the head in closed form, in place, where the recipe or the training images ask for it."""
    if recipe.head == "closed-form" or (recipe.head == "trained" and _outlived(model, original, train)):
        solve_head(model, original.classifier, train)


def _outlived(model: nn.Module, original: Original, train: Images) -> bool:
    """Whether a head in closed form beats the trained head.

    The first is judged by images that it was not solved on, the second by images that it may have been trained on. A
    class without images is known to the second alone.
    """
    if len(train.labels.unique()) < original.num_classes:
        return False
    return -separability(model, original.classifier, train) < judged(model, train).loss


def _trust(recipe: Recipe, voters: Sequence[Voter], too_distant: bool) -> tuple[float, str, tuple[str, ...]]:
    """How far neighbours are trusted: the share of own importance, the source of weights, and what to say."""
    if not recipe.asks_neighbours:
        return 1.0, "pretrained", ()
    if not voters:
        return 1.0, "pretrained", ("The bank has no other task to ask: only the target's own importance decides.",)
    reason = None
    if len(voters) < min(ENOUGH_VOTERS, recipe.neighbours or ENOUGH_VOTERS):
        reason = f"only {len(voters)} neighbour voted"
    elif too_distant:
        reason = "the nearest tasks are farther from this one than the bank's tasks are from each other"
    if reason is None:
        return recipe.own, recipe.weights, ()
    if not recipe.lean:
        return recipe.own, recipe.weights, (f"{_capital(reason)}: votes may be worth less than usual.",)
    own = max(recipe.own, recipe.lean)
    return own, recipe.weights, (f"{_capital(reason)}: the target's own importance gets {own:.0%} of the say.",)


def _averaged(original: Original, decision: Decision, voters: Sequence[Voter]) -> dict[str, Tensor]:
    """Small weights: each element the weighted mean over the voters that kept it, pretrained where none did."""
    structure = original.structure
    base = original.model.state_dict()
    body = {name: value for name, value in base.items() if name not in original.head and value.is_floating_point()}
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in body.items()}
    votes_for = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in body.items()}
    for weight, voter in zip(decision.weights, voters, strict=False):
        state = {name: value.to(body[name].device) for name, value in voter.load().items() if name in body}
        there = scatter(structure, {name: torch.ones_like(value) for name, value in state.items()}, voter.plan)
        wide = scatter(structure, state, voter.plan)
        for name in state:
            total[name] += weight * wide[name].double()
            votes_for[name] += weight * there[name].double()
    mean = {
        name: torch.where(votes_for[name] > 0, total[name] / votes_for[name].clamp_min(1e-30), value.double())
        for name, value in body.items()
    }
    full = {name: mean[name].to(value.dtype) if name in mean else value for name, value in base.items()}
    return gather(structure, full, decision.plan)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
