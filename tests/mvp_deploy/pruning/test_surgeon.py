"""Optimal Brain Surgeon for units, against least squares worked out anew for every choice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mvp_deploy.pruning import surgeon
from mvp_deploy.pruning.surgeon import Reader


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surgeon, "PENALTY", 1e-12)


def made(
    weight: np.ndarray, covariance: np.ndarray, sensitivity: np.ndarray, columns: np.ndarray, rows: float = math.inf
) -> Reader:
    return Reader(*map(torch.from_numpy, (weight, covariance, sensitivity, columns)), rows)


def reader(seed: int, units: int, width: int = 1, outputs: int = 5, others: int = 0) -> tuple[Reader, np.ndarray]:
    """A layer whose units lie at odd places among its columns, and its inputs [samples, columns], centred."""
    rng = np.random.default_rng(seed)
    columns = units * width + others
    x = rng.standard_normal((400, columns)) @ rng.standard_normal((columns, columns))
    x -= x.mean(0)
    places = rng.permutation(columns)[: units * width].reshape(units, width)
    weight, sensitivity = rng.standard_normal((outputs, columns)), rng.uniform(0.1, 3, outputs)
    return made(weight, x.T @ x / len(x), sensitivity, places), x


def rise(which: Reader, x: np.ndarray, gone: list[int]) -> float:
    """How far the loss rises without some units when the rest of the weights are solved anew by least squares."""
    stays = np.setdiff1d(np.arange(x.shape[1]), which.columns[gone].numpy())
    wanted = x @ which.weight.numpy().T
    left = wanted - x[:, stays] @ np.linalg.lstsq(x[:, stays], wanted, rcond=None)[0]
    return float((np.square(left).mean(0) * which.sensitivity.numpy()).sum() / 2)


def brute_force(readers: list[tuple[Reader, np.ndarray]], units: int) -> tuple[list[int], list[float]]:
    """Greedy removal with everything solved anew at every step."""
    gone: list[int] = []
    rises: list[float] = []
    while len(gone) < units:
        left = [unit for unit in range(units) if unit not in gone]
        totals = [sum(rise(*pair, [*gone, unit]) for pair in readers) for unit in left]
        rises.append(min(totals) - sum(rises))
        gone.append(left[int(np.argmin(totals))])
    return gone, rises


@pytest.mark.parametrize("width", [1, 3])
def test_the_first_price_is_the_true_rise_of_a_quadratic_loss(width: int) -> None:
    one, x = reader(0, units=6, width=width, others=4)
    order, rises = surgeon.removal([one])
    assert rises[0] == pytest.approx(rise(one, x, [int(order[0])]), rel=1e-8)
    assert rises[0] == pytest.approx(min(rise(one, x, [unit]) for unit in range(6)), rel=1e-8)


@pytest.mark.parametrize(("width", "outputs"), [(1, 3), (1, 40), (2, 5), (9, 4)])
def test_greedy_removal_gives_what_solving_again_at_every_step_gives(width: int, outputs: int) -> None:
    pairs = [reader(seed, units=7, width=w, outputs=outputs, others=2) for seed, w in ((1, width), (2, 1))]
    order, rises = surgeon.removal([one for one, _ in pairs])
    expected, costs = brute_force(pairs, 7)
    assert order.tolist() == expected
    assert rises == pytest.approx(costs, rel=1e-6)


def test_a_copy_of_another_unit_goes_first_and_free_but_only_one_of_them() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 5))
    x = np.column_stack([x, x[:, 2] + 1e-6 * rng.standard_normal(300)])
    x -= x.mean(0)
    one = made(np.ones((2, 6)), x.T @ x / 300, np.ones(2), np.arange(6)[:, None])
    order, rises = surgeon.removal([one])
    assert order[0] in (2, 5)
    assert rises[0] < 1e-6
    assert rises[1] > 0.1


def test_the_short_list_finds_what_a_full_search_finds() -> None:
    """Several units at a time are taken from a short list of the cheapest; here 600 units, some of them copies."""
    rng = np.random.default_rng(1)
    basis = rng.standard_normal((2000, 200)) * np.geomspace(1, 1e-2, 200)
    x = basis @ rng.standard_normal((200, 600)) + 0.01 * rng.standard_normal((2000, 600))
    x -= x.mean(0)
    one = made(rng.standard_normal((20, 600)), x.T @ x / 2000, np.ones(20), np.arange(600)[:, None])
    order, rises = surgeon.removal([one])
    assert sorted(order) == list(range(600))
    for count in (100, 300, 500):  # what the prices say is what least squares give
        assert rises[:count].sum() == pytest.approx(rise(one, x, order[:count].tolist()), rel=1e-3, abs=1e-9)


def test_scores_keep_the_order_and_the_sum_of_what_goes() -> None:
    one, x = reader(3, units=8)
    scores = surgeon.scores([one])
    order, _ = surgeon.removal([one])
    assert np.argsort(scores).tolist() == order.tolist()
    assert len(np.unique(scores)) == 8
    assert scores[order[:4]].sum() >= rise(one, x, order[:4].tolist()) * (1 - 1e-6)


def test_inputs_that_are_always_zero_and_constant_ones_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surgeon, "PENALTY", 1e-3)
    one, _ = reader(4, units=6)
    covariance = one.covariance.clone()
    covariance[one.columns[3, 0]] = covariance[:, one.columns[3, 0]] = 0
    scores = surgeon.scores([Reader(one.weight, covariance, one.sensitivity, one.columns)])
    assert np.isfinite(scores).all()
    assert scores.argmin() == 3


def test_a_single_unit_has_its_price() -> None:
    one, x = reader(5, units=1, others=3)
    assert surgeon.scores([one]) == pytest.approx([rise(one, x, [0])])


def test_units_that_only_seem_to_follow_from_each_other_are_not_free() -> None:
    """Twenty rows of forty independent units: each follows from the others there, and from none of them in truth."""
    x = np.random.default_rng(0).standard_normal((20, 40))
    x -= x.mean(0)
    few = made(np.eye(40), x.T @ x / 20, np.ones(40), np.arange(40)[:, None], rows=20)
    many = made(np.eye(40), np.eye(40), np.ones(40), np.arange(40)[:, None], rows=10**6)
    taken_at_its_word = made(np.eye(40), x.T @ x / 20, np.ones(40), np.arange(40)[:, None])
    total = surgeon.removal([many])[1][:20].sum()
    assert surgeon.removal([few])[1][:20].sum() > 0.2 * total
    assert surgeon.removal([few])[1][:20].sum() > 2 * surgeon.removal([taken_at_its_word])[1][:20].sum()
