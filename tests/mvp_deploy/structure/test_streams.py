"""Which streams are linear, on small nets of one kind each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mvp_deploy.structure import analyze
from mvp_deploy.structure.streams import linear_streams


class Inverted(nn.Module):
    """An inverted residual block; ``after`` follows the addition."""

    def __init__(self, width: int = 8, hidden: int = 16, after: nn.Module | None = None, start: bool = False) -> None:
        super().__init__()
        self.start = nn.Conv2d(width, width, 3, padding=1, groups=width) if start else nn.Identity()
        self.up, self.norm1 = nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.depth = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.down, self.norm2 = nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width)
        self.after = after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.depth(torch.relu(self.norm1(self.up(self.start(x))))))
        return self.after(x + self.norm2(self.down(inner)))


def net(*blocks: nn.Module, stem: nn.Module | None = None) -> nn.Module:
    layers = stem or nn.Conv2d(3, 8, 3), *blocks, nn.Conv2d(8, 12, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 4))


def streams(model: nn.Module, size: int = 10) -> dict[str, tuple[int, int, int]]:
    example = torch.zeros(2, 3, size, size)
    found = linear_streams(model.eval(), analyze(model, example))
    return {s.group: (len(s.makers), len(s.readers), len(s.offsets)) for s in found}


def test_inverted_residual_blocks_share_one_linear_stream() -> None:
    assert streams(net(Inverted(), Inverted())) == {"0": (3, 3, 0)}


@pytest.mark.parametrize(
    "model",
    [
        net(Inverted(after=nn.ReLU()), Inverted()),
        net(Inverted(), Inverted(start=True)),
        net(Inverted(), nn.BatchNorm2d(8), Inverted()),
        net(Inverted(), stem=nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())),
    ],
    ids=["relu after the addition", "depthwise on the stream", "batch norm on the stream", "relu after the stem"],
)
def test_what_ties_a_stream_to_its_basis(model: nn.Module) -> None:
    assert streams(model) == {}


def test_a_block_that_runs_twice_keeps_its_basis_and_one_that_reads_what_it_writes_does_not() -> None:
    twice = Inverted()
    assert streams(net(twice, twice)) == {}
    own = nn.Conv2d(8, 8, 1)
    assert streams(net(own)) == {"0": (1, 1, 0), "1": (1, 1, 0)}


def test_a_stream_that_is_the_output_is_left_alone() -> None:
    assert streams(nn.Sequential(nn.Conv2d(3, 8, 3), Inverted())) == {}


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("test_vit", 32, {"patch_embed.proj": (13, 13, 2)}),  # class token and position embeddings
        ("deit3_small_patch16_224", 32, {"patch_embed.proj": (25, 25, 2)}),  # with layer scale
        ("resnet18", 32, {}),
        ("convnext_atto", 32, {}),
        ("mixer_s32_224", 224, {}),
    ],
)
def test_timm_models(name: str, size: int, expected: dict[str, tuple[int, int, int]]) -> None:
    from mvp_deploy.backbones.timm_import import timm

    options = {"img_size": size} if "vit" in name or "deit" in name else {}
    assert streams(timm().create_model(name, num_classes=3, **options), size) == expected


@pytest.mark.parametrize(
    ("name", "count"),
    [("mobilenetv2_050", 7), ("mobilenetv3_small_050", 4), ("efficientnet_b0", 7), ("tf_efficientnet_lite0", 7)],
)
def test_every_stage_of_inverted_residual_nets_is_a_linear_stream(name: str, count: int) -> None:
    from mvp_deploy.backbones.timm_import import timm

    assert len(streams(timm().create_model(name, num_classes=3), 64)) == count
