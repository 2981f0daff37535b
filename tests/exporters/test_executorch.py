from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.protocol import Source

pytest.importorskip("executorch", reason="ExecuTorch is not installed: pip install executorch")

import torch
from small import IMAGES, model
from torch import nn

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.calibration.ranges import extremes
from mvp_deploy.exporters.executorch import ExecuTorchExporter


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "m.pte"
    artifact = ExecuTorchExporter().export(Source("fp32", Path(), model(), (3, 8, 8)), path)
    assert artifact.bytes == path.stat().st_size
    return path


@pytest.mark.parametrize("batch_size", [1, 4])
def test_it_computes_what_the_model_does_image_by_image(program: Path, batch_size: int) -> None:
    runner = open_runner(program, threads=1)
    got = logits(runner, IMAGES, batch_size)
    assert runner.details["threads"] == "1"
    assert runner.details["batch"] == "one image at a time"
    assert runner.image_shape == (3, 8, 8)
    runner.close()
    with torch.no_grad():
        check_parity(model()(torch.from_numpy(IMAGES)).numpy(), got)


def test_two_numbers_of_threads_at_a_time_are_refused(program: Path) -> None:
    """The pool would be freed under the feet of the program that runs in it."""
    first = open_runner(program, threads=1)
    with pytest.raises(MvpError, match="with 1 threads, so 2"):
        open_runner(program, threads=2)
    first.close()
    second = open_runner(program, threads=2)
    assert second.details["threads"] == "2"
    assert len(logits(second, IMAGES, 1)) == len(IMAGES)
    second.close()


def test_nothing_of_this_machine_is_in_the_program(program: Path) -> None:
    content = program.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parent).encode() not in content


class Joined(nn.Module):
    """A residual addition, a joint, pools and an activation that XNNPACK does not compute in int8."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.norm(self.first(x)), inplace=True)
        x = x + nn.functional.silu(self.second(x))
        x = self.third(torch.cat([x, 3 * nn.functional.max_pool2d(x, 3, 1, 1)], 1))
        return self.head(x.mean((2, 3)))


def quantized(net: nn.Module, path: Path, layers: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """What the net gives in PyTorch, and with its first ``layers`` in int8; and the names of those that may be."""
    whole = ExecuTorchExporter().quantizable(Source("fp32", Path(), net, (3, 8, 8)), Path(__file__))
    content = whole.quantized(extremes(whole.values(IMAGES)), whole.layers[:layers])
    path.write_bytes(content)
    ExecuTorchExporter().export(Source("int8", path, net, (3, 8, 8)), path.with_suffix(".pte"))
    runner = open_runner(path.with_suffix(".pte"), threads=1)
    found = logits(runner, IMAGES, 5)
    runner.close()
    with torch.no_grad():
        return net(torch.from_numpy(IMAGES)).numpy(), found, whole.layers


def test_int8_is_smaller_and_only_the_layers_named_are_in_it(program: Path, tmp_path: Path) -> None:
    reference, both, layers = quantized(model(), tmp_path / "both", 2)
    assert layers == ("conv2d", "linear")
    check_parity(reference, both, 0.3, exact=False)
    assert (tmp_path / "both.pte").stat().st_size < 0.8 * program.stat().st_size
    _, one, _ = quantized(model(), tmp_path / "one", 1)
    _, none, _ = quantized(model(), tmp_path / "none", 0)
    assert not np.array_equal(one, both)
    check_parity(reference, none)


def test_int8_of_joints_pools_and_additions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference, found, layers = quantized(Joined().eval(), tmp_path / "m", 4)
    assert layers == ("conv2d", "conv2d_1", "conv2d_2", "linear")
    assert not np.array_equal(reference, found)
    check_parity(reference, found, 0.3, exact=False)


def test_int8_counts_what_an_activation_leaves_of_a_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net[0].bias.fill_(-1000.0)  # far below zero, where ReLU6 leaves nothing, but for one channel
        net[0].bias[0] = 3.0
    reference, found, _ = quantized(net.eval(), tmp_path / "m", 2)
    check_parity(reference, found, 0.1)


def test_a_model_it_cannot_take_is_an_expected_error(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(MvpError, match="ExecuTorch cannot take this model"):
        ExecuTorchExporter().export(Source("fp32", Path(), Branching(), (3, 8, 8)), tmp_path / "m.pte")
    assert not (tmp_path / "m.pte").exists()


def test_what_cannot_be_run_is_an_expected_error(program: Path, tmp_path: Path) -> None:
    (tmp_path / "m.pte").write_bytes(b"no program")
    with pytest.raises(MvpError, match="ExecuTorch cannot load"):
        open_runner(tmp_path / "m.pte")
    with pytest.raises(MvpError, match="--device cpu") as error:
        open_runner(program, device="cuda")
    assert error.value.code == ExitCode.ENVIRONMENT
