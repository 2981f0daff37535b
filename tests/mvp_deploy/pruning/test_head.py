from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.pruning.head import classifier, finish, recalibrate, solve_head
from mvp_deploy.structure import KeepPlan, analyze
from mvp_deploy.structure.graph import TracedModel
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


def test_a_head_that_is_not_linear_is_left_alone(cnn) -> None:
    model = cnn.original.copy()
    model.fc = torch.nn.Sequential(model.fc)
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


def test_few_steps_count_for_more_once_statistics_and_head_have_caught_up(cnn) -> None:
    model, config = cnn.original.copy(), TrainConfig(steps=5, batch_size=32)
    solve_head(model, cnn.original.classifier, cnn.train)
    fit(model, cnn.train, config)
    lagging = accuracy(model, cnn.test)
    finish(model, cnn.original.classifier, cnn.train, config)
    assert accuracy(model, cnn.test) > lagging + 0.05


def test_a_head_that_was_tuned_for_long_is_kept(both) -> None:
    model, name = both.original.copy(), both.original.classifier
    head = model.get_parameter(f"{name}.weight")
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
    small = structure.prune(model, plan)
    assert isinstance(small, TracedModel)
    assert solve_head(small, classifier(model), cnn.train)
    assert accuracy(small, cnn.test) > 0.6  # a third is chance
