"""Votes: what earlier tasks' pruned models say about which units a new task should keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from mvp_deploy.pruning.budget import Scores
from mvp_deploy.structure import KeepPlan, Structure


@dataclass(frozen=True)
class Voter:
    """A neighbour: an earlier task, how similar it is to the target, what it kept and how important that was.

    load: gives its pruned model's weights, read only where a recipe starts from them.
    """

    name: str
    similarity: float
    plan: KeepPlan = field(repr=False)
    scores: Scores = field(repr=False)
    load: Callable[[], Mapping[str, Tensor]] = field(repr=False)


def weights(voters: Sequence[Voter], weighting: str) -> np.ndarray:
    """How much each voter counts, float64 [voters], summing to the number of voters.

    'plain': all the same. 'lead': the nearest as much as all others together. 'similarity': in proportion to similarity
    above the least similar voter's, which still counts for a tenth of the nearest; similarities have no natural zero,
    so only their differences speak.
    """
    if weighting == "plain" or len(voters) < 2:
        return np.ones(len(voters))
    if weighting == "lead":
        others = len(voters) - 1
        return np.array([others, *np.ones(others)]) * len(voters) / (2 * others)
    similarity = np.array([voter.similarity for voter in voters], dtype=np.float64)
    spread = similarity.max() - similarity.min()
    if not spread > 0:
        return np.ones(len(voters))
    weight = 0.1 + 0.9 * (similarity - similarity.min()) / spread
    return np.asarray(weight * len(voters) / weight.sum())


def count(structure: Structure, voters: Sequence[Voter], weighting: str = "plain") -> dict[str, np.ndarray]:
    """Votes per unit: the (weighted) number of voters that kept it. group name -> float64 [size]."""
    weight = weights(voters, weighting)
    return {
        group.name: np.sum([w * v.plan.masks[group.name] for w, v in zip(weight, voters, strict=True)], axis=0)
        for group in structure.groups
    }


def sum_scores(structure: Structure, voters: Sequence[Voter], weighting: str = "plain") -> dict[str, np.ndarray]:
    """Score votes: the (weighted) sum of the voters' importance scores over the units each of them kept.

    The score mask of Zhao and Long 2023 (arXiv 2307.04365) as far as its abstract and design.md tell: a unit's
    score in a pruned model is its importance there, and 0 where it was removed. Every voter's scores are first
    divided by their group's sum over kept units, so that no voter outshouts another.
    """
    weight = weights(voters, weighting)
    result = {}
    for group in structure.groups:
        total = np.zeros(group.size)
        for w, voter in zip(weight, voters, strict=True):
            kept = voter.scores[group.name] * voter.plan.masks[group.name]
            total += w * kept / max(float(kept.sum()), 1e-30)
        result[group.name] = total
    return result


def lent(structure: Structure, voters: Sequence[Voter], weighting: str = "plain") -> dict[str, np.ndarray]:
    """The voters' importances of all units, each voter's normalised over the whole model: their (weighted) mean."""
    weight = weights(voters, weighting)
    each = [normalised(voter.scores) for voter in voters]
    return {
        group.name: np.average([scores[group.name] for scores in each], axis=0, weights=weight)
        for group in structure.groups
    }


def normalised(scores: Scores) -> dict[str, np.ndarray]:
    """Importances that sum to 1 over all groups: of one unit of measure whatever the task's loss was."""
    total = max(float(sum(np.sum(values) for values in scores.values())), 1e-30)
    return {group: values / total for group, values in scores.items()}


def beside(own: Scores, others: Scores, share: float) -> dict[str, np.ndarray]:
    """Share x own importance + (1 - share) x the others', comparable across groups as both are."""
    own = normalised(own)
    return {group: share * own[group] + (1 - share) * others[group] for group in own}


def perturb(votes: Scores, seed: int) -> dict[str, np.ndarray]:
    """Add Gumbel noise, so that keeping the best k is a sample of k units without replacement, p = softmax(votes).

    That is the paper's draw (Zhao et al. 2023, arXiv 2301.11560): p(k) = exp(votes_k) / sum_h exp(votes_h) in each
    layer; keeping the top k of noisy scores samples it exactly (Kool et al. 2019, arXiv 1903.06059).
    """
    rng = np.random.default_rng(seed)
    return {group: votes[group] + rng.gumbel(size=len(votes[group])) for group in sorted(votes)}


def ranks(scores: Scores) -> dict[str, np.ndarray]:
    """Scores as average ranks within their group, in (0, 1]; equal scores share a rank."""
    result = {}
    for group, values in scores.items():
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        highest = np.cumsum(counts)
        result[group] = ((highest - (counts - 1) / 2) / len(values))[inverse]
    return result


def blend(votes: Scores, own: Scores, share: float) -> dict[str, np.ndarray]:
    """(1 - share) x votes + share x the target's own importance, both as ranks within their group."""
    ranked_votes, ranked_own = ranks(votes), ranks(own)
    return {group: (1 - share) * ranked_votes[group] + share * ranked_own[group] for group in votes}


def unanimity(structure: Structure, voters: Sequence[Voter], plan: KeepPlan) -> dict[str, float]:
    """Per group, the share of voters that kept a unit, averaged over the units ``plan`` keeps; 1 is unanimous."""
    if not voters:
        return {}
    votes = count(structure, voters)
    return {
        group.name: float(votes[group.name][plan.masks[group.name]].mean() / len(voters)) for group in structure.groups
    }


def shares(structure: Structure, voters: Sequence[Voter]) -> Mapping[str, float]:
    """Per group, the fraction of units the voters kept on average."""
    return {
        group.name: float(np.mean([voter.plan.masks[group.name].mean() for voter in voters]))
        for group in structure.groups
    }
