from __future__ import annotations

from pathlib import Path

import pytest

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.protocol import Source

pytest.importorskip("executorch", reason="ExecuTorch is not installed: pip install executorch")

import torch
from small import IMAGES, model
from torch import nn

from mvp_deploy.benchmark.runner import logits, open_runner
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


def test_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvpError, match="does not deliver int8: ask for fp32"):
        ExecuTorchExporter().export(Source("int8", Path(), model(), (3, 8, 8)), tmp_path / "m.pte")


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
