from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.run import DETAILS

from mvp_deploy.bank import nearest
from mvp_deploy.bank.entry import Entry
from mvp_deploy.bank.nearest import leep, neighbours, similarities, too_distant
from mvp_deploy.bank.new import NewTask
from mvp_deploy.bank.signature import Signature, sign
from mvp_deploy.bank.store import Bank, Record
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import Recipe
from mvp_deploy.tasks import Images


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


METRICS = {"accuracy": 0.9, "unpruned_accuracy": 0.9, "units": 1.0, "params": 1, "macs": 1, "unpruned_params": 1,
           "unpruned_macs": 1}  # fmt: skip
COST = {"steps": 1, "seconds": 1.0, "macs": 1}


@pytest.fixture
def bank(cnn, tmp_path: Path) -> Bank:
    """Nine tasks on the backbone of `cnn`, each farther from its task by prototypes than the one before."""
    made = Bank.init(tmp_path / "bank", cnn.backbone, cnn.state)
    own = sign(cnn.backbone, cnn.state, cnn.train, 3, cnn.train.device)
    noise = np.random.default_rng(0).normal(size=own.mean.shape).astype(np.float32) * own.mean.std()
    plan = cnn.original.full
    scores = {group.name: np.ones(group.size) for group in cnn.original.structure.groups}
    for number in range(9):
        signature = Signature(own.mean + number * noise, own.count)
        weights = cnn.original.model.state_dict()
        made.add(
            Record(
                f"task {number}", ("a", "b", "c"), str(number), plan, weights, scores, signature, METRICS, COST, DETAILS
            )
        )
    return made


def new(cnn, bank: Bank) -> NewTask:
    return NewTask(cnn.task, bank, cnn.original, cnn.train, cnn.test)


def test_of_a_short_list_of_the_nearest_those_with_the_best_features_vote(
    cnn, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "SHORT_LIST", 6)
    asked: list[str] = []

    def measure(kind: str, entry: Entry, original: Original, train: Images) -> float:
        asked.append(f"{kind} {entry.name}")
        return float(entry.name[-1])  # the farther, the better

    found = neighbours(new(cnn, bank), Recipe(neighbours=2), score=measure)
    assert sorted(asked) == [f"features task {number}" for number in range(6)]
    assert [voter.name for voter in found.voters] == ["task 5", "task 4"]


def test_without_a_linear_classifier_prototypes_choose(cnn, bank: Bank) -> None:
    other = replace(cnn.original)
    other.__dict__["classifier"] = ()
    found = neighbours(replace(new(cnn, bank), original=other), Recipe(neighbours=2))
    assert [voter.name for voter in found.voters] == ["task 0", "task 1"]
    assert all(np.isfinite(voter.similarity) for voter in found.voters)


def test_of_the_control_s_random_voters_a_random_one_leads(cnn, bank: Bank) -> None:
    recipe = Recipe(nearest_by="random", neighbours=9)
    found = [neighbours(new(cnn, bank), recipe, seed=seed).voters for seed in range(5)]
    assert len({voters[0].name for voters in found}) > 1
    assert all(len({voter.name for voter in voters}) == 9 for voters in found)


def damage(path: Path, section: str) -> None:
    """Flip a bit of the last byte of a section's last tensor."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    end = max(entry["data_offsets"][1] for name, entry in table.items() if name.startswith(section))
    content[start + end - 1] ^= 1
    path.write_bytes(content)


def readable(kind: str, entry: Entry, original: Original, train: Images) -> float:
    return float(len(entry.weights()))  # the same for all


def test_damaged_tasks_are_named_and_the_others_vote(cnn, bank: Bank) -> None:
    damage(bank.path("task 0"), "signature/")
    damage(bank.path("task 1"), "weights/")
    bank.path("task 2").write_bytes(b"")
    bank.path("task 3").unlink()
    bank.path("task 3").mkdir()
    for measure in ("prototypes", "features"):
        recipe = Recipe(neighbours=2, nearest_by=measure)
        found = neighbours(new(cnn, bank), recipe, score=readable)
        assert [voter.name for voter in found.voters] == ["task 4", "task 5"]
        assert len(found.damaged) == 4
        assert all(any(str(bank.path(f"task {n}")) in sentence for sentence in found.damaged) for n in range(4))
