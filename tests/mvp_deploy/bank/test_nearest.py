from __future__ import annotations

import numpy as np
import pytest

from mvp_deploy.bank.nearest import leep, similarities, too_distant
from mvp_deploy.bank.signature import Signature, sign


def signature_of(*prototypes: np.ndarray) -> Signature:
    return Signature(np.array(prototypes, np.float32), np.full(len(prototypes), 10))


def test_tasks_of_like_classes_are_nearest() -> None:
    rng = np.random.default_rng(0)
    animals, vehicles, plants = (rng.normal(size=64) + 3 for _ in range(3))  # all features are positive on average

    def task(*centres: np.ndarray) -> Signature:
        return signature_of(*(centre + 0.3 * rng.normal(size=64) for centre in centres))

    target = task(animals, animals)
    others = [task(vehicles, vehicles), task(animals, animals, animals), task(animals, plants), task(plants, plants)]
    similarity = similarities(target, others)
    assert similarity.argsort()[::-1][:2].tolist() == [1, 2]
    assert (np.abs(similarity) <= 1).all()


def test_similarity_knows_no_order_of_classes_and_is_mutual() -> None:
    rng = np.random.default_rng(1)
    first, second, third = (signature_of(*rng.normal(size=(3, 8))) for _ in range(3))
    turned = Signature(first.mean[::-1].copy(), first.count)
    assert similarities(first, [second, third]) == pytest.approx(similarities(turned, [second, third]))
    assert similarities(first, [second, third])[0] == pytest.approx(similarities(second, [first, third])[0])
    assert similarities(first, [first, second])[0] == pytest.approx(1)


def test_a_target_is_too_distant_where_the_bank_s_tasks_are_nearer_to_each_other() -> None:
    rng = np.random.default_rng(2)
    world = rng.normal(size=(12, 64))  # what the bank's classes are mixed of

    def task() -> Signature:
        return signature_of(*(rng.dirichlet(np.ones(12), 5) @ world))

    bank = [task() for _ in range(30)]
    assert sum(too_distant(task(), bank, 5) for _ in range(20)) <= 2
    assert too_distant(signature_of(*rng.normal(size=(5, 64))), bank, 5)
    assert not too_distant(signature_of(*rng.normal(size=(5, 64))), bank[:3], 5)  # who can tell


def test_leep_of_a_source_that_tells_all_or_nothing() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    telling = np.eye(3)[labels]
    assert leep(telling, labels) == pytest.approx(0)
    silent = np.full((6, 4), 0.25)
    assert leep(silent, labels) == pytest.approx(np.log(1 / 3))


def test_leep_by_hand() -> None:
    """P(y, z) = [[.35, .15], [.1, .4]]; P(y|z) = [[7/9, 3/11], [2/9, 8/11]]."""
    theta, labels = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]]), np.array([0, 0, 1, 1])
    given = np.array([[7 / 9, 3 / 11], [2 / 9, 8 / 11]])
    expected = np.mean([np.log(given[y] @ row) for row, y in zip(theta, labels, strict=True)])
    assert leep(theta, labels) == pytest.approx(expected)


def test_a_signature_is_each_class_s_mean_feature(cnn) -> None:
    from mvp_deploy import backbones

    signature = sign(cnn.backbone, cnn.state, cnn.train, 3, cnn.train.device)
    assert signature.count.tolist() == np.bincount(cnn.task.train.labels).tolist()
    features = backbones.build(cnn.backbone, cnn.state, 0)
    import torch

    with torch.no_grad():
        means = [features(x[y == 1]).mean(0) for x, y in cnn.train.batches(10_000)]
    np.testing.assert_allclose(signature.mean[1], means[0].numpy(), rtol=1e-4, atol=1e-5)
