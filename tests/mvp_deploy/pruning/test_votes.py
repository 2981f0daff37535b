from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from mvp_deploy.pruning import votes
from mvp_deploy.pruning.budget import keep_best
from mvp_deploy.pruning.votes import Voter
from mvp_deploy.structure import KeepPlan, UnitGroup


def structure_of(size: int) -> SimpleNamespace:
    """Votes need no more of a structure than its groups' names and sizes."""
    return SimpleNamespace(groups=(UnitGroup("g", "channel", size, ()),))


def voter(mask: list[int], similarity: float = 0.5, scores: list[float] | None = None) -> Voter:
    kept = np.array(mask, bool)
    return Voter("t", similarity, KeepPlan({"g": kept}), {"g": np.array(scores or mask, float)}, dict)


def test_plain_votes_are_counts() -> None:
    voters = [voter([1, 1, 0, 0], 0.9), voter([1, 0, 1, 0], 0.1)]
    assert votes.count(structure_of(4), voters)["g"].tolist() == [2, 1, 1, 0]


def test_similar_voters_count_more_but_together_as_many() -> None:
    voters = [voter([1, 0, 0], 0.9), voter([0, 1, 0], 0.5), voter([0, 1, 0], 0.1)]
    weight = votes.weights(voters, "similarity")
    assert weight[0] > weight[1] > weight[2] > 0
    assert weight.sum() == pytest.approx(3)
    assert votes.weights(voters, "plain").tolist() == [1, 1, 1]
    alike = [voter([1], -3.0), voter([1], -3.0)]
    assert votes.weights(alike, "similarity").tolist() == [1, 1]


def test_a_leader_is_outvoted_only_by_all_others_together() -> None:
    leader, others = voter([1, 1, 0, 0]), [voter([0, 1, 1, 0]), voter([0, 0, 1, 0]), voter([0, 0, 1, 0])]
    assert votes.weights([leader, *others], "lead").tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])
    count = votes.count(structure_of(4), [leader, *others], "lead")["g"]
    assert count.tolist() == pytest.approx([2, 2 + 2 / 3, 2, 0])
    assert votes.weights([leader], "lead").tolist() == [1]


def test_score_votes_ignore_what_a_voter_removed_and_its_scale() -> None:
    loud = voter([1, 1, 0], scores=[300.0, 100.0, 9e9])
    quiet = voter([0, 1, 1], scores=[5.0, 1e-3, 1e-3])
    total = votes.sum_scores(structure_of(3), [loud, quiet])["g"]
    assert total.tolist() == pytest.approx([0.75, 0.25 + 0.5, 0.5])


def test_sampling_follows_the_papers_softmax_without_replacement() -> None:
    counts, k = np.array([3.0, 1.0, 0.0, 2.0]), 2
    p = np.exp(counts) / np.exp(counts).sum()
    expected = dict.fromkeys(itertools.combinations(range(4), k), 0.0)
    for first, second in itertools.permutations(range(4), 2):
        expected[tuple(sorted((first, second)))] += p[first] * p[second] / (1 - p[first])
    structure, draws = structure_of(4), 4000
    seen = dict.fromkeys(expected, 0)
    for seed in range(draws):
        plan = keep_best(structure, votes.perturb({"g": counts}, seed), {"g": k})
        seen[tuple(np.flatnonzero(plan.masks["g"]))] += 1
    for pair, probability in expected.items():
        assert seen[pair] / draws == pytest.approx(probability, abs=4 * np.sqrt(probability / draws) + 1e-3)


def test_ranks_are_shared_by_equal_scores() -> None:
    assert votes.ranks({"g": np.array([5.0, 1.0, 5.0, 9.0])})["g"].tolist() == [0.625, 0.25, 0.625, 1.0]


def test_blending_goes_from_votes_alone_to_own_alone() -> None:
    said, own = {"g": np.array([2.0, 1.0, 0.0])}, {"g": np.array([0.0, 1.0, 5.0])}
    assert np.argsort(votes.blend(said, own, 0.0)["g"]).tolist() == [2, 1, 0]
    assert np.argsort(votes.blend(said, own, 1.0)["g"]).tolist() == [0, 1, 2]
    ties = {"g": np.array([1.0, 1.0, 0.0])}
    assert votes.blend(ties, own, 0.1)["g"].argmax() == 1  # own importance decides between equal votes


def test_unanimity_is_the_voters_agreement_on_what_stays() -> None:
    voters = [voter([1, 1, 0, 0]), voter([1, 0, 1, 0])]
    plan = KeepPlan({"g": np.array([True, True, False, False])})
    assert votes.unanimity(structure_of(4), voters, plan) == {"g": 0.75}
    assert votes.unanimity(structure_of(4), voters[:1], plan) == {"g": 1.0}
    assert votes.unanimity(structure_of(4), [], plan) == {}


def test_shares_are_what_voters_kept_on_average() -> None:
    assert votes.shares(structure_of(4), [voter([1, 1, 0, 0]), voter([1, 0, 0, 0])]) == {"g": 0.375}
