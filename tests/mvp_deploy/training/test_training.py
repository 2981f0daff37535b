from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from mvp_deploy.backbones import build, create
from mvp_deploy.base.errors import MvpError
from mvp_deploy.tasks import Images, Preprocessing, Split, load_task, prepare
from mvp_deploy.training import TrainConfig, accuracy, fit, learning_rate

PREPROCESSING = Preprocessing((3, 8, 8), "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    task = load_task("digits#0,1,4")
    return prepare(task.train, PREPROCESSING), prepare(task.test, PREPROCESSING)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(16 * 36, 3),
        )


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


FAST = TrainConfig(steps=30, batch_size=32, lr=0.05)


@pytest.mark.parametrize(
    "config",
    [
        FAST,
        replace(FAST, optimizer="adamw", lr=0.003, schedule="onecycle", label_smoothing=0.1, weight_decay=0.05),
        replace(FAST, augment=False, clip=None),
    ],
)
def test_training_learns_and_reports(config: TrainConfig, digits: tuple[Images, Images]) -> None:
    train, test = digits
    model = network()
    before = accuracy(model, test)
    seen: list[tuple[int, int, float]] = []
    result = fit(model, train, config, progress=lambda *values: seen.append(values))
    assert accuracy(model, test) > max(0.9, before)
    assert not model.training
    assert [step for step, _, _ in seen] == list(range(1, 31))
    assert result.steps == 30
    assert result.seconds > 0
    assert result.final_loss == seen[-1][2] < seen[0][2]


def test_a_timm_model_learns_digits() -> None:
    task = load_task("digits#0,1,4")
    backbone, state = create("test_resnet", image_size=32)
    train, test = (prepare(split, backbone.preprocessing) for split in (task.train, task.test))
    model = build(backbone, state, 3)
    fit(model, train, TrainConfig(steps=50, batch_size=32))
    assert accuracy(model, test) > 0.8
    assert all(value.is_contiguous() for value in model.state_dict().values())  # whatever the layout it trained in


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_random_state_alone(
    digits: tuple[Images, Images],
) -> None:
    models = [network() for _ in range(3)]
    before = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        fit(model, digits[0], replace(FAST, seed=seed))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_goes_on_to_the_same_weights(
    optimizer: Literal["sgd", "adamw"], digits: tuple[Images, Images], tmp_path: Path
) -> None:
    config = replace(FAST, optimizer=optimizer, lr=0.01)
    path = tmp_path / "checkpoint.safetensors"
    unbroken, model = network(), network()
    result = fit(unbroken, digits[0], config)
    for kill, first in ((1, 1), (13, 1), (15, 13), (29, 15)):  # an epoch has 13 batches
        seen: list[int] = []

        def progress(step: int, steps: int, loss: float, kill: int = kill, seen: list[int] = seen) -> None:
            seen.append(step)
            if step == kill:
                raise Killed  # before this step's checkpoint

        with pytest.raises(Killed):
            fit(network(), digits[0], config, checkpoint=path, checkpoint_seconds=0, progress=progress)
        assert seen[0] == first
    again = fit(model, digits[0], config, checkpoint=path, checkpoint_seconds=0)
    assert torch.equal(weights(model), weights(unbroken))
    assert again.final_loss == result.final_loss
    assert not path.exists()


def test_a_checkpoint_of_another_training_is_refused(digits: tuple[Images, Images], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        fit(network(), digits[0], FAST, checkpoint=path, checkpoint_seconds=0, progress=kill)
    for images, config in ((digits[0], replace(FAST, lr=0.01)), (digits[1], FAST)):
        with pytest.raises(MvpError, match=f"{path} belongs to another training: delete it"):
            fit(network(), images, config, checkpoint=path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(MvpError, match=str(path)):
        fit(network(), digits[0], FAST, checkpoint=path)


def test_divergence_is_caught_with_advice(digits: tuple[Images, Images], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    config = replace(FAST, lr=0.5, clip=None)
    with pytest.raises(MvpError, match=r"diverged.*Lower the learning rate \(it was 0\.5; try 0\.05\)"):
        fit(exploding(), digits[0], config, checkpoint=path, checkpoint_seconds=0)


def test_divergence_in_the_last_step_is_caught(digits: tuple[Images, Images]) -> None:
    with pytest.raises(MvpError, match="diverged"):
        fit(exploding(), digits[0], replace(FAST, steps=1, clip=None))


def exploding() -> nn.Module:
    """A network whose gradients overflow."""
    model = network()
    next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    return model


def test_a_student_comes_to_agree_with_its_teacher(digits: tuple[Images, Images]) -> None:
    train, test = digits
    teacher = network(seed=5)
    fit(teacher, train, FAST)
    swapped = Images(train.pixels, (train.labels + 1) % 3, train.preprocessing, train.device)  # wrong labels
    student = network()
    before = weights(teacher)
    fit(student, swapped, replace(FAST, distill=1.0), teacher=teacher)
    assert accuracy(student, test) > 0.9  # it listened to the teacher alone
    assert torch.equal(weights(teacher), before)
    assert all(value.is_contiguous() for value in teacher.parameters())
    with pytest.raises(MvpError, match="there is no teacher"):
        fit(student, train, replace(FAST, distill=0.5))


def test_frozen_parameters_stay(digits: tuple[Images, Images]) -> None:
    model = network()
    model[0].requires_grad_(False)  # type: ignore[index]
    before = model[0].weight.clone()  # type: ignore[index, union-attr, operator]
    fit(model, digits[0], replace(FAST, steps=3))
    assert torch.equal(model[0].weight, before)  # type: ignore[index, arg-type]


def test_fewer_images_than_a_batch_are_enough() -> None:
    split = Split(np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 2]))
    assert fit(network(), prepare(split, PREPROCESSING), replace(FAST, steps=2)).steps == 2


def test_accuracy_is_the_share_of_right_answers_and_keeps_the_mode(digits: tuple[Images, Images]) -> None:
    class Always(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.ones(len(x), dtype=torch.int64), 3).float()

    model = Always().train()
    assert accuracy(model, digits[1]) == pytest.approx(float((digits[1].labels == 1).float().mean()))
    assert model.training


@pytest.mark.parametrize("steps", [1, 2, 7, 200])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_the_learning_rate_rises_then_falls_towards_zero(schedule: str, steps: int) -> None:
    config = TrainConfig(steps=steps, lr=0.1, schedule=schedule)  # type: ignore[arg-type]
    rates = [learning_rate(step, config) for step in range(steps)]
    top = int(np.argmax(rates))
    assert all(0 < rate <= 0.1 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps == 200:
        assert max(rates) == 0.1
        assert top == (10 if schedule == "cosine" else 60)
        assert rates[-1] < 1e-4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("batch_size", 1),
        ("lr", 0.0),
        ("clip", 0.0),
        ("distill", 1.5),
        ("label_smoothing", 1.0),
        ("seed", -1),
    ],
)
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(MvpError, match=f"{name} is"):
        replace(FAST, **{name: value})  # type: ignore[arg-type]
