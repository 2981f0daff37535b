"""Rotating linear streams leaves the function as it is, whatever the weights, and puts the strong directions first."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvp_deploy.backbones.backbone import create
from mvp_deploy.pruning.budget import keep_best
from mvp_deploy.pruning.original import Original, check_exact
from mvp_deploy.pruning.rotation import rotate, rotated
from mvp_deploy.structure import analyze
from mvp_deploy.structure.streams import linear_streams
from mvp_deploy.tasks import Images
from mvp_deploy.tasks.own import collect


class Inverted(nn.Module):
    """An inverted residual block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.norm1 = nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depth = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.down, self.norm2 = nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.down(torch.relu(self.depth(torch.relu(self.norm1(self.up(x)))))))


class Block(nn.Module):
    """A pre-norm transformer's MLP, on images whose pixels are tokens; ``bias`` of what reads the LayerNorm."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 24, bias=bias), nn.Linear(24, width)
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.down(nn.functional.gelu(self.up(self.norm(x))))


class Tokens(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, stride=2)
        self.place = nn.Parameter(torch.randn(1, 25, 8))
        self.blocks = nn.Sequential(Block(8, bias), Block(8, bias))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def inverted(kernel: int = 3) -> nn.Module:
    last = nn.Conv2d(8, 12, kernel, padding=kernel // 2)
    body = nn.Conv2d(3, 8, 3), Inverted(8, 16), Inverted(8, 24), last, nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))


def shaken(model: nn.Module) -> nn.Module:
    """The model with none of its numbers as they are at the start."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
        tensor.data += 0.2 * torch.rand(tensor.shape, generator=generator)
    return model.eval()


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def shown(x: Tensor) -> Images:
    """The images in their own number format."""
    return replace(collect(x), pixels=x)


@pytest.mark.parametrize("make", [inverted, Tokens, lambda: Tokens(bias=False)], ids=["inverted", "tokens", "no bias"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_function_stays_while_the_weights_change(make, dtype: torch.dtype, limit: float) -> None:
    model, x = shaken(make()).to(dtype), images().to(dtype)
    structure = analyze(model, x[:2])
    state = rotated(model, structure, shown(x))
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    assert state.keys() == model.state_dict().keys()
    with torch.no_grad():
        error = (twin(x) - model(x)).abs().max() / model(x).abs().max()
    assert float(error) < limit
    name = "0.weight" if "0.weight" in state else "patch.weight"
    assert not torch.allclose(state[name], model.state_dict()[name], atol=0.01)
    assert [s.group for s in linear_streams(twin, structure)] == [s.group for s in linear_streams(model, structure)]


def test_the_strongest_directions_come_first_and_are_not_correlated() -> None:
    model, x = shaken(inverted(kernel=1)), images()
    model.load_state_dict(rotated(model, analyze(model, x[:2]), shown(x)))
    with torch.no_grad():
        streams = [model[:depth](x).movedim(1, -1).flatten(0, -2) for depth in (1, 2, 3)]
    total = sum(torch.cov(s.T) / torch.cov(s.T).trace() for s in streams)
    assert (total - total.diag().diag()).abs().max() < 1e-3 * total.max()
    assert (total.diag().diff() <= 1e-6).all()


def test_batch_norms_keep_working_on_their_own_statistics() -> None:
    """In training, where they take the batch's statistics, a rotated net's channels are about as the running ones."""
    model, x = shaken(inverted()), images()
    for _ in range(2):  # running statistics that are the images' own
        with torch.no_grad():
            for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.momentum = 1.0
            model.train()(x)
            model.eval()
    model.load_state_dict(rotated(model, analyze(model, x[:2]), shown(x)))
    with torch.no_grad():
        resting, training = model(x), model.train()(x)
    assert (training - resting).abs().max() < 0.02 * resting.abs().max()


def test_a_model_without_linear_streams_stays_as_it_is(cnn) -> None:
    original = cnn.original
    state = rotated(original.model, original.structure, cnn.train)
    assert all(torch.equal(value, state[name]) for name, value in original.model.state_dict().items())
    assert rotate(cnn.backbone, cnn.state, cnn.train)[0] == cnn.backbone


def test_a_rotated_backbone_prunes_exactly_and_counts_the_same_units(vit) -> None:
    backbone, state = rotate(vit.backbone, vit.state, vit.train, seed=0)
    assert backbone.fingerprint != vit.backbone.fingerprint
    assert "rotated" in backbone.weights
    turned = Original.create(backbone, state, 3)
    groups = [(group.name, group.kind, group.size) for group in turned.structure.groups]
    assert groups == [(group.name, group.kind, group.size) for group in vit.original.structure.groups]
    rng = np.random.default_rng(0)
    scores = {name: rng.random(size) for name, _, size in groups}
    plan = keep_best(turned.structure, scores, {name: max(1, size // 2) for name, _, size in groups})
    assert check_exact(turned, plan, turned.pruned(plan), vit.test) < 1e-5


def test_it_can_be_done_to_a_published_architecture() -> None:
    backbone, state = create("tf_efficientnet_lite0", image_size=32)
    generator = torch.Generator().manual_seed(0)
    from mvp_deploy.tasks import Images

    pixels = torch.randint(0, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    shown = Images(pixels, torch.zeros(8, dtype=torch.int64), backbone.preprocessing, torch.device("cpu"))
    again, turned = rotate(backbone, state, shown)
    assert again.weights_sha256 != backbone.weights_sha256
    assert turned.keys() == state.keys()
