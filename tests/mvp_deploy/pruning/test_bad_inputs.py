"""Little or odd data still give a finite model; what is not a number is refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mvp_deploy.base.errors import InputError
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.making import make
from mvp_deploy.pruning.norms import recalibrate_if_better
from mvp_deploy.pruning.original import Original
from mvp_deploy.pruning.recipes import RECIPES, Recipe
from mvp_deploy.pruning.tuning import tune_by
from mvp_deploy.pruning.yardstick import Yardstick
from mvp_deploy.tasks import Images
from mvp_deploy.training import TrainConfig

HALF = Budget(0.5, "macs")
ALONE = Recipe(rivals=True)


def shown(cnn, pixels: torch.Tensor, labels: list[int]) -> Images:
    return replace(cnn.train, pixels=pixels, labels=torch.tensor(labels))


def pixels(cnn, number: int) -> torch.Tensor:
    return cnn.train.pixels[:number].clone()


def images(cnn, what: str) -> Images:
    if what == "one image in all":
        return shown(cnn, pixels(cnn, 1), [0])
    if what == "one class with one image":
        return shown(cnn, pixels(cnn, 5), [0, 0, 1, 1, 2])
    if what == "all of one class":
        return shown(cnn, pixels(cnn, 6), [0] * 6)
    assert what == "constant images"
    return shown(cnn, torch.full_like(pixels(cnn, 12), 128), [0, 1, 2] * 4)


@pytest.mark.parametrize(
    "what", ["one image in all", "one class with one image", "all of one class", "constant images"]
)
def test_little_to_learn_from_still_gives_a_finite_model(cnn, what: str) -> None:
    train = images(cnn, what)
    made = make(cnn.original, train, [], ALONE, HALF)
    done = tune_by(ALONE, made.model, cnn.original.classifier, train, TrainConfig(steps=2, batch_size=4))
    assert finite(made.model, cnn.test)
    assert done.told


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("one image in all", "1 training image is little"),
        ("one class with one image", "1 of 3 classes have one training image"),
        ("constant images", "are they blank"),
    ],
)
def test_a_sentence_says_where_a_number_means_little(cnn, what: str, sentence: str) -> None:
    assert any(sentence in doubt for doubt in Yardstick(cnn.original, images(cnn, what)).doubts)


def test_enough_images_that_differ_leave_no_doubt(cnn) -> None:
    assert list(Yardstick(cnn.original, cnn.train).doubts) == []


def test_channels_that_are_always_zero_do_no_harm(cnn) -> None:
    model = cnn.original.copy()
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(model.layer1[0].bn1, name)[:16] = 0
    made = make(replace(cnn.original, model=model), cnn.train, [], ALONE, HALF)
    assert finite(made.model, cnn.test)
    assert made.decision.plan.masks["layer1.0.conv1"][:16].sum() < made.decision.plan.masks["layer1.0.conv1"][16:].sum()


def test_half_precision_weights_are_scored_and_re_solved(cnn) -> None:
    state = {n: v.half() if v.is_floating_point() else v for n, v in cnn.state.items()}
    original = Original.create(cnn.backbone, state, 3)
    assert finite(make(original, cnn.train, [], ALONE, HALF).model, cnn.test)


def test_cut_to_the_least_of_every_group_a_model_is_finite(cnn) -> None:
    made = make(cnn.original, cnn.train, [], RECIPES["compensated"], Budget(0.001, "units"))
    assert finite(made.model, cnn.test)


@pytest.mark.parametrize("criterion", ["taylor", "obs"])
def test_weights_that_are_not_numbers_are_refused_by_name(cnn, criterion: str) -> None:
    model = cnn.original.copy()
    with torch.no_grad():
        model.layer2[0].conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"layer2\.0\.conv1"):
        make(replace(cnn.original, model=model), cnn.train, [], replace(RECIPES["own"], criterion=criterion), HALF)


def test_norms_stay_as_they_are_where_no_class_has_two_images(cnn) -> None:
    """Leave-one-out losses then differ by rounding alone, and statistics of a few images ruin a model."""
    model = cnn.original.copy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one_each = shown(cnn, pixels(cnn, 3), [0, 1, 2])
    assert not recalibrate_if_better(model, cnn.original.classifier, one_each)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("criterion", ["taylor", "obs"])
def test_a_model_that_computes_no_numbers_is_refused_in_a_sentence(cnn, criterion: str) -> None:
    model = cnn.original.copy()
    with torch.no_grad():
        model.bn1.running_var.fill_(-1)
    with pytest.raises(InputError, match="computes NaN or infinity"):
        make(replace(cnn.original, model=model), cnn.train, [], replace(RECIPES["own"], criterion=criterion), HALF)


def finite(model: torch.nn.Module, images: Images) -> bool:
    with torch.no_grad():
        return all(bool(model(x).isfinite().all()) for x, _ in images.batches(64))
