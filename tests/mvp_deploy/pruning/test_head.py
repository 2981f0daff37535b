from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvp_deploy.exporters.parity import FP32_TOLERANCE
from mvp_deploy.pruning.head import classifier, finish, recalibrate, ridge_classifier, solve_head
from mvp_deploy.pruning.norms import recalibrate_if_better
from mvp_deploy.structure import KeepPlan, analyze, prune
from mvp_deploy.structure.graph import TracedModel
from mvp_deploy.structure.program import prune_program
from mvp_deploy.training import TrainConfig, accuracy, fit


def test_a_solved_head_already_classifies(both) -> None:
    model = both.original.copy()
    fresh = accuracy(model, both.test)
    assert solve_head(model, both.original.classifier, both.train)
    assert accuracy(model, both.test) > max(0.8, fresh)  # even random features tell three digits apart


def test_a_solved_head_is_not_overconfident(cnn) -> None:
    model = cnn.original.copy()
    solve_head(model, cnn.original.classifier, cnn.train)
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(model(x), y, reduction="sum") for x, y in cnn.test.batches(64)]
    assert sum(losses) / len(cnn.test) < 0.7  # guessing costs 1.1


class Averaged(nn.Module):
    """Two heads on the same features, given as a tuple by `get_classifier`."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.heads = body, nn.ModuleList([nn.Linear(96, 3), nn.Linear(96, 3)])

    def get_classifier(self) -> tuple[nn.Module, ...]:
        return tuple(self.heads)

    def forward(self, x: Tensor) -> Tensor:
        return sum(head(self.body(x)) for head in self.heads) / 2


class KeywordLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(input=x, weight=self.weight, bias=self.bias)


HEADS = {
    "a subclass of Linear, called by keywords": KeywordLinear(96, 3),
    "an MLP": nn.Sequential(nn.Linear(96, 24), nn.GELU(), nn.Linear(24, 3)),
    "batch norm and Linear": nn.Sequential(nn.BatchNorm1d(96), nn.Linear(96, 3)),
    "a convolution": nn.Sequential(nn.Unflatten(1, (96, 1, 1)), nn.Conv2d(96, 3, 1), nn.Flatten()),
    "without a bias": nn.Linear(96, 3, bias=False),
}


@pytest.mark.parametrize("head", [pytest.param(head, id=name) for name, head in HEADS.items()])
def test_every_head_that_ends_in_a_linear_layer_is_solved(cnn, head: nn.Module) -> None:
    model = cnn.original.copy()
    model.fc = copy.deepcopy(head).eval()
    assert solve_head(model, classifier(model), cnn.train)
    assert accuracy(model, cnn.test) > 0.8


def test_several_heads_are_solved_each(cnn) -> None:
    model = cnn.original.copy()
    model.fc = nn.Identity()
    averaged = Averaged(model).eval()
    assert classifier(averaged) == ("heads.0", "heads.1")
    assert solve_head(averaged, classifier(averaged), cnn.train)
    assert torch.equal(averaged.heads[0].weight, averaged.heads[1].weight)
    assert accuracy(averaged, cnn.test) > 0.8


@pytest.mark.parametrize("after", [nn.Softmax(1), nn.Tanh()])
def test_a_head_whose_outputs_are_not_the_model_s_is_left_alone(cnn, after: nn.Module) -> None:
    model = cnn.original.copy()
    model.fc = torch.nn.Sequential(model.fc, after)
    before = copy.deepcopy(model.state_dict())
    assert not solve_head(model, classifier(model), cnn.train)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_are_those_of_the_new_images(cnn, vit) -> None:
    model = cnn.original.copy()
    assert recalibrate(model, cnn.train, batches=1000, batch_size=len(cnn.train))
    seen = []
    hook = model.bn1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.cat([x for x, _ in cnn.train.batches(256)])
    with torch.no_grad():
        model(x)
    hook.remove()
    torch.testing.assert_close(model.bn1.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert model.bn1.momentum == cnn.original.model.bn1.momentum
    assert not model.training
    assert not recalibrate(vit.original.copy(), vit.train)


def test_statistics_of_a_recorded_program_are_recomputed_as_the_module_s_are(cnn) -> None:
    model = cnn.original.copy()
    structure = cnn.original.structure
    program = prune_program(structure, model, cnn.original.full, "")
    stale = copy.deepcopy(program.state_dict())
    assert recalibrate(program, cnn.train)
    assert recalibrate(model, cnn.train)
    torch.testing.assert_close(program.state_dict()["bn1.running_var"], model.bn1.running_var)
    assert not torch.equal(program.state_dict()["bn1.running_var"], stale["bn1.running_var"])


def test_few_steps_count_for_more_once_statistics_and_head_have_caught_up(cnn) -> None:
    model, config = cnn.original.copy(), TrainConfig(steps=5, batch_size=32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()  # running averages of five batches are then far from the images'
    fit(model, cnn.train, config)
    assert accuracy(model, cnn.test) < 0.7
    finish(model, cnn.original.classifier, cnn.train, config)
    assert accuracy(model, cnn.test) > 0.9


def test_a_head_that_was_tuned_for_long_is_kept(both) -> None:
    model, name = both.original.copy(), both.original.classifier
    head = model.get_parameter(f"{name[0]}.weight")
    before = head.detach().clone()
    config = TrainConfig(steps=10, batch_size=len(both.train))
    finish(model, name, both.train, config)
    assert torch.equal(head, before)
    finish(model, name, both.train, replace(config, steps=5))
    assert not torch.equal(head, before)


def test_a_published_recipe_s_model_is_left_as_its_fine_tuning_ends(both) -> None:
    model = both.original.copy()
    before = copy.deepcopy(model.state_dict())
    finish(model, both.original.classifier, both.train, TrainConfig(steps=1), statistics=False, head=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_are_recomputed_only_if_the_images_favour_it(cnn) -> None:
    model = cnn.original.copy()
    before = copy.deepcopy(model.state_dict())
    model.bn1.running_mean.add_(1e3)  # its ReLU now gives zeros for every image
    assert recalibrate_if_better(model, cnn.original.classifier, cnn.train)
    assert not torch.equal(model.bn1.running_mean, before["bn1.running_mean"])
    settled = copy.deepcopy(model.state_dict())
    assert not recalibrate_if_better(model, cnn.original.classifier, cnn.train)  # anew is the same
    assert all(torch.equal(value, settled[name]) for name, value in model.state_dict().items())
    assert not recalibrate_if_better(model, (), cnn.train)


class Mixer(nn.Module):
    """Its forward divides one width by another number of heads: no attribute makes a smaller one run."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.stem, self.qkv, self.proj = nn.Linear(48, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.fc = nn.Linear(32, 3)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(2).unflatten(2, (-1, 16)).transpose(1, 2).flatten(2))
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).reshape(b, n, c)
        return self.fc((x + self.proj(mixed)).mean(1))


def test_the_head_of_a_traced_program_is_solved_too(cnn) -> None:
    torch.manual_seed(0)
    model = Mixer().eval()
    structure = analyze(model, torch.zeros(2, *cnn.original.backbone.preprocessing.input_size))
    plan = KeepPlan({group.name: np.arange(group.size) < -(-group.size // 2) for group in structure.groups})
    small = prune(structure, model, plan)
    assert isinstance(small, TracedModel)
    assert solve_head(small, classifier(model), cnn.train)
    assert accuracy(small, cnn.test) > 0.6  # a third is chance


def test_a_head_from_few_images_passes_the_features_rounding_on_far_below_what_parity_allows() -> None:
    """Features behind a ReLU, fewer images than features: the regression may interpolate."""
    for seed in range(5):
        torch.manual_seed(seed)
        labels = torch.arange(24) % 3
        features = (torch.randn(24, 64).double() + torch.nn.functional.one_hot(labels, 64)).relu()
        head = ridge_classifier(features, labels, 3)
        logits, rounded = (
            x @ head.weight.T + head.bias for x in (features, features * (1 + 2e-7 * torch.randn(24, 64)))
        )
        assert (rounded - logits).abs().max() < 0.5 * FP32_TOLERANCE * logits.abs().max()


@pytest.mark.parametrize("images", [2, 3, 6])
def test_leave_one_out_is_what_solving_without_each_image_gives(images: int) -> None:
    """Also from so few images that each is fitted almost exactly."""
    torch.manual_seed(0)
    features, labels = torch.randn(images, 40).relu().double(), torch.arange(images) % 2
    right = 0
    for one in range(images):
        rest = [other for other in range(images) if other != one]
        fit = ridge_classifier(features[rest], labels[rest], 2)
        right += int((fit.weight @ features[one] + fit.bias).argmax() == labels[one])
    assert ridge_classifier(features, labels, 2).loo_accuracy == right / images
