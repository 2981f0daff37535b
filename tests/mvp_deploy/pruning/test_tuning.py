"""Tuning judged by a part of the training images."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from mvp_deploy.base.errors import MvpError
from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.recipes import RECIPES, Recipe
from mvp_deploy.pruning.tuning import Choice, Judgement, Trials, Tuned, judged, set_aside, tune, tune_by
from mvp_deploy.tasks import Images
from mvp_deploy.training import TrainConfig, accuracy, fit

FEW = TrainConfig(steps=6, batch_size=16, lr=0.05)


def headed(bench) -> torch.nn.Module:
    model = bench.original.copy()
    solve_head(model, bench.original.classifier, bench.train)
    return model


def test_a_fifth_of_each_class_is_set_aside_and_the_rest_trains(cnn) -> None:
    part, aside = set_aside(cnn.train, 0)
    assert len(part) + len(aside) == len(cnn.train)
    for label in range(3):
        share = float((aside.labels == label).sum() / (cnn.train.labels == label).sum())
        assert share == pytest.approx(0.2, abs=0.02)
    again, _ = set_aside(cnn.train, 0)
    assert torch.equal(part.pixels, again.pixels)
    other, _ = set_aside(cnn.train, 1)
    assert not torch.equal(part.pixels, other.pixels)


def test_too_few_images_to_judge_by_leave_the_model_untuned(cnn) -> None:
    few = cnn.train.subset(torch.cat([(cnn.train.labels == k).nonzero()[:12, 0] for k in range(3)]))
    model = cnn.original.copy()
    body = copy.deepcopy(model.state_dict())
    done = tune(model, cnn.original.classifier, few, FEW)
    assert (done.steps, done.kept, done.choice) == (0, 0, None)
    assert all(torch.equal(value, body[name]) for name, value in model.state_dict().items() if "fc" not in name)
    assert "untuned" in done.told


def test_a_ruinous_learning_rate_leaves_the_untuned_model_with_a_head_of_all_images(both) -> None:
    model = headed(both)
    wanted = copy.deepcopy(model)
    done = tune(model, both.original.classifier, both.train, replace(FEW, lr=100.0, clip=None, optimizer="sgd"))
    assert done.kept == 0
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_tuned_model_is_not_worse_on_the_images_set_aside_and_says_what_it_took(cnn) -> None:
    model = cnn.original.copy()
    done = tune(model, cnn.original.classifier, cnn.train, replace(FEW, steps=20), solved_head=False)
    assert done.after.loss <= done.before.loss
    assert (done.kept, done.steps) == (20, 3 * 20)  # two trials and the training
    assert f"after {done.kept} steps" in done.told
    assert Tuned.from_json(asdict(done)) == done


def test_frozen_norms_keep_their_statistics_and_trained_ones_follow(cnn) -> None:
    for norms, kept in (("frozen", True), ("trained", False)):
        model = headed(cnn)
        before = model.bn1.running_mean.clone()
        done = tune(model, cnn.original.classifier, cnn.train, FEW, norms=norms)
        assert done.choice.frozen_norms == kept
        assert torch.equal(model.bn1.running_mean, before) == (kept or done.kept == 0)


def test_a_killed_tuning_goes_on_to_the_same_model(cnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(done: int, total: int, loss: float) -> None:
        assert total == 24  # with two trials
        if done == 20:
            raise KeyboardInterrupt

    config = replace(FEW, steps=8)
    whole, model = cnn.original.copy(), cnn.original.copy()
    expected = tune(whole, cnn.original.classifier, cnn.train, config, solved_head=False)
    file = tmp_path / "tuning.checkpoint"
    monkeypatch.setitem(fit.__kwdefaults__, "checkpoint_seconds", 0.0)
    with pytest.raises(KeyboardInterrupt):
        tune(model, cnn.original.classifier, cnn.train, config, checkpoint=file, progress=killed, solved_head=False)
    assert file.exists()
    again = cnn.original.copy()
    done = tune(again, cnn.original.classifier, cnn.train, config, checkpoint=file, solved_head=False)
    assert (done.kept, done.steps, done.after) == (expected.kept, expected.steps, expected.after)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_a_published_recipe_trains_on_all_images_to_the_last_step(cnn) -> None:
    recipe = RECIPES["paper"]
    model, plain = cnn.original.copy(), cnn.original.copy()
    done = tune_by(recipe, model, cnn.original.classifier, cnn.train, FEW)
    fit(plain, cnn.train, FEW)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    assert (done.steps, done.kept, done.before) == (6, 6, None)


def test_without_judging_few_steps_end_with_statistics_and_head_solved_again(cnn) -> None:
    model = cnn.original.copy()
    solve_head(model, cnn.original.classifier, cnn.train)
    plain = copy.deepcopy(model)
    fit(plain, cnn.train, FEW)
    tune_by(Recipe(judged=False, norms="recomputed"), model, cnn.original.classifier, cnn.train, FEW)
    assert accuracy(model, cnn.test) > accuracy(plain, cnn.test)


def test_a_training_that_diverges_without_judging_says_so(cnn) -> None:
    model = cnn.original.copy()
    next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(MvpError, match="diverged"):
        tune_by(RECIPES["paper"], model, (), cnn.train, replace(FEW, clip=None))


def test_trials_start_from_a_model_that_the_images_set_aside_had_no_part_in(cnn) -> None:
    seen: list[int] = []

    def made_of(images: Images) -> torch.nn.Module:
        seen.append(len(images))
        return cnn.original.copy()

    part, _ = set_aside(cnn.train, FEW.seed)
    tune(cnn.original.copy(), cnn.original.classifier, cnn.train, FEW, made_of=made_of)
    assert seen == [len(part)]


def test_of_each_trial_the_trained_head_and_one_solved_again_are_judged(cnn, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Judgement] = []

    def told(model: torch.nn.Module, images: Images) -> Judgement:
        seen.append(judged(model, images))
        return seen[-1]

    monkeypatch.setattr("mvp_deploy.pruning.tuning.judged", told)
    model = headed(cnn)
    done = tune(model, cnn.original.classifier, cnn.train, FEW)
    trials = seen[1:5]  # after the untuned model: two trainings, two heads each
    best = min(range(4), key=lambda place: trials[place].loss)
    assert done.trial == trials[best]
    assert done.choice.head == ("trained", "solved")[best % 2]
    assert ("head solved again" in done.told) == (done.kept > 0 and best % 2 == 1)


@pytest.mark.parametrize(("solved", "kept"), [(0.3, True), (0.5, False)])
def test_a_head_that_may_know_the_images_set_aside_is_not_what_tuning_is_judged_by(
    cnn, solved: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    untuned = [0.2, 0.4]  # under the head as it is, and under one in closed form
    trials = [0.6, 0.7, 0.25, solved]  # bold and careful, each under both heads
    losses = iter([*untuned, *trials, 0.1])
    monkeypatch.setattr("mvp_deploy.pruning.tuning.judged", lambda model, images: Judgement(next(losses), 0.9))
    done = tune(cnn.original.copy(), cnn.original.classifier, cnn.train, FEW, solved_head=False)
    assert (done.before.loss, done.trial.loss) == (0.4, solved)
    assert (done.kept > 0) == kept
    assert done.choice.head == "trained"


@pytest.mark.parametrize("head", ["trained", "solved"])
def test_the_chosen_head_is_the_one_that_the_model_ends_with(
    cnn, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = "mvp_deploy.pruning.tuning"
    monkeypatch.setattr(f"{tuning}.judged", lambda model, images: Judgement(0.5, 0.9))  # so the choice is gone by
    checkpoint = tmp_path / "tuning"
    kept = Trials(Choice(0.05, True, head=head), Judgement(0.6, 0.9), Judgement(0.5, 0.9))
    checkpoint.with_suffix(".choice.json").write_text(json.dumps(asdict(kept)))
    model = headed(cnn)
    done = tune(model, cnn.original.classifier, cnn.train, FEW, checkpoint=checkpoint)
    assert done.kept == FEW.steps
    again = copy.deepcopy(model)
    solve_head(again, cnn.original.classifier, cnn.train)
    weights = (each.get_parameter(f"{cnn.original.classifier[0]}.weight") for each in (model, again))
    assert torch.equal(*weights) == (head == "solved")


def test_loss_decides_and_one_answer_of_eighty_does_not() -> None:
    assert Judgement(0.17, 75 / 80).no_worse_than(Judgement(0.22, 76 / 80))
    assert not Judgement(0.22, 76 / 80).no_worse_than(Judgement(0.17, 75 / 80))


def test_what_is_judged_is_loss_and_accuracy(cnn) -> None:
    model = cnn.original.copy()
    solve_head(model, cnn.original.classifier, cnn.train)
    found = judged(model, cnn.test)
    assert found.accuracy == accuracy(model, cnn.test)
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(model(x), y, reduction="sum") for x, y in cnn.test.batches(64)]
        assert 0 < found.loss <= 1.00001 * float(sum(losses)) / len(cnn.test)
        cnn_head = model.get_classifier()
        cnn_head.weight *= 10
        cnn_head.bias *= 10
    sure = judged(model, cnn.test)
    assert sure.accuracy == found.accuracy
    assert sure.loss < 1.1 * found.loss  # to be sure of the same answers is no fault
