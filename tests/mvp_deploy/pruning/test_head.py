from __future__ import annotations

import copy

import torch

from mvp_deploy.pruning.head import recalibrate, solve_head
from mvp_deploy.training import accuracy


def test_a_solved_head_already_classifies(both) -> None:
    model = both.original.copy()
    fresh = accuracy(model, both.test)
    assert solve_head(model, both.train)
    assert accuracy(model, both.test) > max(0.8, fresh)  # even random features tell three digits apart


def test_a_solved_head_is_not_overconfident(cnn) -> None:
    model = cnn.original.copy()
    solve_head(model, cnn.train)
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(model(x), y, reduction="sum") for x, y in cnn.test.batches(64)]
    assert sum(losses) / len(cnn.test) < 0.7  # guessing costs 1.1


def test_a_head_that_is_not_linear_is_left_alone(cnn) -> None:
    model = cnn.original.copy()
    model.fc = torch.nn.Sequential(model.fc)
    before = copy.deepcopy(model.state_dict())
    assert not solve_head(model, cnn.train)
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
