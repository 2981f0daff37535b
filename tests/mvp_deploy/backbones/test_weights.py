"""Checkpoints as people have them: which are read, and which are refused by the tensor's name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvp_deploy.backbones import build, create
from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.base.errors import ExitCode, MvpError

SMALL = "test_resnet"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def trained() -> State:
    """A model's weights with its head of four classes."""
    backbone, state = create(SMALL, seed=3)
    return dict(build(backbone, state, 4).state_dict())


def loaded(path: Path, content: object) -> State:
    torch.save(content, path)
    return create(SMALL, weights=path)[1]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def test_a_checkpoint_of_timms_own_train_script(tmp_path: Path, trained: State) -> None:
    from timm.utils import CheckpointSaver, ModelEmaV3

    timm()
    model = timm().create_model(SMALL, num_classes=4)
    model.load_state_dict(zeros(trained))
    ema = ModelEmaV3(nn.DataParallel(model))
    ema.module.load_state_dict(prefixed(trained, "module."))
    optimizer = torch.optim.AdamW(model.parameters())
    saver = CheckpointSaver(
        model,
        optimizer,
        args=argparse.Namespace(model=SMALL, lr=0.1, mean=(0.5, 0.5, 0.5), data=None),
        model_ema=ema,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(3, metric=71.5)
    read = create(SMALL, weights=tmp_path / "last.pth.tar")[1]
    assert torch.equal(read["conv1.0.weight"], trained["conv1.0.weight"])  # the average's, as timm takes it


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda s: prefixed(s, "_orig_mod.module."),
        lambda s: prefixed(s, "module._orig_mod."),
        lambda s: {key.replace("layer1.", "layer1._orig_mod."): value for key, value in s.items()},
        lambda s: {"state_dict": prefixed(s, "model.")},
        lambda s: {"state_dict": prefixed(s, "net._orig_mod.backbone.") | {"loss.weight": torch.ones(3)}},
        lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(7)},  # torch's AveragedModel
        lambda s: {"state_dict": prefixed(zeros(s), "model.") | prefixed(s, "ema_model.module.")},
        lambda s: {"state_dict": s, "ema": {"decay": 0.99}},
        lambda s: {"model": {"state_dict": prefixed(s, "module.")}},
    ],
)
def test_wrappers_in_any_order_come_off(tmp_path: Path, trained: State, wrapped: Callable[[State], Any]) -> None:
    read = loaded(tmp_path / "a.pth", wrapped(trained))
    assert all(torch.equal(value, trained[key]) for key, value in read.items())


def test_the_names_of_an_original_release_are_converted_under_a_prefix(tmp_path: Path) -> None:
    _, state = create("test_vit", image_size=128)
    torch.save({"model": prefixed(state, "module._orig_mod.")}, tmp_path / "a.pth")
    _, resampled = create("test_vit", image_size=64, weights=tmp_path / "a.pth")
    assert torch.equal(resampled["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("conv1.0.weight", lambda t: t * float("nan"), "conv1.0.weight has NaN or infinity"),
        ("bn1.running_var", lambda t: t / 0, "bn1.running_var has NaN or infinity"),
        ("fc.bias", lambda t: t * float("inf"), "fc.bias has NaN or infinity"),
        ("conv1.0.weight", lambda t: t.double() * 1e300, "conv1.0.weight has NaN or infinity"),  # in float32
        ("conv1.0.weight", lambda t: t.to(torch.int8), "conv1.0.weight is torch.int8 there and torch.float32"),
        ("conv1.0.weight", lambda t: t.to("meta"), "torch cannot copy them"),
    ],
)
def test_weights_that_would_spoil_the_model_are_refused_by_name(
    tmp_path: Path, trained: State, name: str, change: Callable[[Tensor], Tensor], says: str
) -> None:
    content = trained | {name: change(trained[name] + 1)}
    torch.save(content, tmp_path / "a.pth")
    backbone, _ = create(SMALL)
    with pytest.raises(MvpError, match=says) as caught:
        build(backbone, content, 4)
    if name != "fc.bias":  # a head is not taken over
        with pytest.raises(MvpError, match=says) as caught:
            create(SMALL, weights=tmp_path / "a.pth")
        assert str(tmp_path / "a.pth") in str(caught.value)
    assert caught.value.code == ExitCode.INPUT


def test_half_precision_weights_are_exact(tmp_path: Path, trained: State) -> None:
    half = {key: value.bfloat16() if value.is_floating_point() else value for key, value in trained.items()}
    read = loaded(tmp_path / "a.pth", half)
    assert torch.equal(read["conv1.0.weight"], half["conv1.0.weight"].float())


def test_nothing_but_the_namespace_is_let_in(tmp_path: Path, trained: State) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(ran),)

    for content in (
        {"state_dict": trained, "args": Evil()},
        {"state_dict": trained, "args": argparse.Namespace(x=Evil())},
    ):
        with pytest.raises(MvpError, match=r"plain tensors \(it holds \w+.mkdir, and .*save the model's state_dict"):
            loaded(tmp_path / "a.pth", content)
    assert not ran.exists()
    knot: dict[str, Any] = {}
    knot["model"] = knot
    with pytest.raises(MvpError, match="holds no state dict"):
        loaded(tmp_path / "a.pth", knot)
