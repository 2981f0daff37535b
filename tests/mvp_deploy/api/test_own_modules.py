"""`mvp.prune` on modules of one's own: whatever a forward does, it gives a smaller model or a sentence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mvp_deploy as mvp

X, Y = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
Use = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    def __init__(self, use: Use) -> None:
        super().__init__()
        self.conv, self.mix, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)
        self.hidden, self.head = nn.Linear(12 * 64, 16), nn.Linear(16, 3)
        self.constant = torch.linspace(0.5, 2, 8)
        self.use = use

    def logits(self, y: Tensor) -> Tensor:
        return self.head(self.hidden(y.flatten(1)).relu())

    def forward(self, x: Tensor) -> Any:
        return self.use(self, self.norm(self.mix(self.conv(x).relu())))


FORWARDS: dict[str, Use] = {
    "makes a tensor": lambda m, y: m.logits(y * (torch.arange(8) + 1)),
    "keeps a tensor": lambda m, y: m.logits(y * m.constant),
    "makes ones": lambda m, y: m.logits(y) + torch.ones(3),
    "a module on a new tensor": lambda m, y: m.logits(y + m.mix(m.conv(torch.ones(1, 3, 8, 8)))),
    "view over channels and pixels": lambda m, y: m.head(m.hidden(y.view(-1, 12 * 64)).relu()),
    "view by pixels": lambda m, y: m.logits(y.view(len(y), y.shape[1], -1).tanh()),
}


@pytest.mark.parametrize("use", FORWARDS.values(), ids=FORWARDS)
def test_what_a_forward_makes_or_views_stops_nothing(use: Use, tmp_path: Path) -> None:
    result = mvp.prune(Net(use).eval(), (X, Y), macs=0.6, round_to=1)
    assert result.report.macs <= 0.6 * result.report.full_macs
    loaded = mvp.load(mvp.save(result, tmp_path / "small.safetensors"), Net(use))
    with torch.no_grad():
        torch.testing.assert_close(loaded(X), result.model.eval()(X))


def old_weight_norm() -> nn.Module:
    net = Net(Net.logits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(net.mix)
    return net(X) is not None and net  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("module", "labels", "sentence"),
    [
        (lambda: Net(lambda m, y: (m.logits(y), y.mean())), Y, "returns a tuple for 2 images"),
        (lambda: Net(lambda m, y: {"logits": m.logits(y)}), Y, "returns a dict for 2 images"),
        (lambda: Net(lambda m, y: y), Y, r"returns a tensor of shape \[2, 12, 8, 8\]"),
        (lambda: Net(Net.logits), Y + 1, "labels up to 3, the model has 3 outputs"),
        (lambda: Net(lambda m, y: m.logits((10 * y).int().float())), Y, "choose the criterion magnitude"),
        (lambda: Net(lambda m, y: [c.add_(1) for c in y.chunk(2)] and m.logits(y)), Y, "the criterion magnitude"),
        (old_weight_norm, Y, "remove_weight_norm"),
        (lambda: torch.compile(Net(Net.logits), backend="eager"), Y, "was made by torch.compile"),
    ],
    ids=["tuple", "dict", "a map", "labels", "no gradient", "in place", "weight norm", "compiled"],
)
def test_what_cannot_be_pruned_is_a_sentence(module: Callable[[], nn.Module], labels: Tensor, sentence: str) -> None:
    with pytest.raises(mvp.MvpError, match=sentence):
        mvp.prune(module().eval(), (X, labels), macs=0.6, round_to=1)


@pytest.mark.parametrize(
    ("module", "labels", "sentence"),
    [
        (lambda: Net(lambda m, y: (m.logits(y), y.mean())), Y, "returns a tuple for 2 images"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(10, 3)),
            Y,
            "fails on the data's images, of shape",
        ),
        (lambda: Net(Net.logits), Y + 1, "labels up to 3, the model has 3 outputs"),
        (lambda: Net(Net.logits), Y + 0.5, "labels that are not whole numbers"),
        (old_weight_norm, Y, "remove_weight_norm"),
    ],
    ids=["tuple", "another size", "labels", "halves", "weight norm"],
)
def test_what_cannot_be_exported_is_a_sentence(
    module: Callable[[], nn.Module], labels: Tensor, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(mvp.MvpError, match=sentence):
        mvp.export(module().eval(), tmp_path / "bundle", data=(X, labels))
    assert not (tmp_path / "bundle").exists()


def test_without_gradients_the_criterion_that_is_proposed_works() -> None:
    net = Net(lambda m, y: m.logits((10 * y).int().float())).eval()
    assert mvp.prune(net, (X, Y), macs=0.6, round_to=1, criterion="magnitude").report.macs


def test_no_traceback_is_logged_of_what_was_only_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    log, seen = logging.getLogger("torch._subclasses.fake_tensor"), []
    monkeypatch.setattr(log, "handle", seen.append)
    net = Net(lambda m, y: y.unflatten(1, (-1, 2)).amax(2).repeat_interleave(2, 1).mean((2, 3)) @ m.weight)
    net.weight = nn.Parameter(torch.ones(12, 3))
    parts = mvp.analyze(net.eval(), X)
    plan = mvp.KeepPlan({group.name: np.arange(group.size) < group.size // 2 for group in parts.groups})
    with pytest.raises(mvp.MvpError, match="would compute something else"):
        mvp.cut(net, plan, parts)
    assert not seen
