"""Imitation brings a smaller model's features back to the unpruned ones, without labels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mvp_deploy.pruning import imitation
from mvp_deploy.pruning.budget import Budget, counts_for, keep_best, uniform
from mvp_deploy.pruning.imitation import TUNING, Features, feature_error, imitate, kept_features
from mvp_deploy.pruning.importance import score
from mvp_deploy.structure import KeepPlan
from mvp_deploy.training import fit

SHORT = replace(TUNING, steps=30, batch_size=16, flip=False)


def plan_of(setting, fraction: float = 0.6) -> KeepPlan:
    original = setting.original
    counts = counts_for(original.structure, Budget(fraction, "units"), uniform(original.structure))
    scores = score("magnitude", original.structure, original.model, original.full, setting.train)
    return keep_best(original.structure, scores, counts)


def test_features_are_what_the_classifier_reads(both) -> None:
    original = both.original
    x = next(iter(both.test.batches(4)))[0]
    with torch.no_grad():
        features = Features(original, original.model)(x)
        head = original.model.get_submodule(original.classifier[0])
        torch.testing.assert_close(head(features), original.model(x))


def test_it_brings_features_nearer_and_reads_no_labels(both) -> None:
    original, plan = both.original, plan_of(both)
    models = []
    for labels in (both.train.labels, torch.zeros_like(both.train.labels)):
        model = original.pruned(plan)
        before = feature_error(original, plan, model, both.test)
        imitate(original, plan, model, replace(both.train, labels=labels), SHORT)
        assert feature_error(original, plan, model, both.test) < 0.9 * before
        models.append(model.state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0] if name not in original.head)


def test_an_unpruned_model_is_its_own_likeness(cnn) -> None:
    original = cnn.original
    assert kept_features(original, original.full).all()
    assert feature_error(original, original.full, original.copy(), cnn.test) == 0


def test_frozen_norms_keep_their_statistics_while_weights_learn(cnn) -> None:
    model, images = cnn.original.copy(), cnn.train
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, images, replace(SHORT, steps=3))
    after = model.state_dict()
    running = [name for name in before if "running_" in name]
    assert running
    assert all(torch.equal(before[name], after[name]) for name in running)
    assert not torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])


def test_a_killed_imitation_goes_on_to_the_same_weights(cnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, plan, file = cnn.original, plan_of(cnn), tmp_path / "imitation.checkpoint"
    whole, again = original.pruned(plan), original.pruned(plan)
    imitate(original, plan, whole, cnn.train, SHORT)
    monkeypatch.setattr(imitation, "fit", partial(fit, checkpoint_seconds=0.0))

    def kill(done: int, total: int, loss: float) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imitate(original, plan, original.pruned(plan), cnn.train, SHORT, checkpoint=file, progress=kill)
    assert file.exists()
    imitate(original, plan, again, cnn.train, SHORT, checkpoint=file)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
