from __future__ import annotations

from pathlib import Path

import pytest

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.protocol import Source

pytest.importorskip("litert_torch", reason="LiteRT is not installed: pip install litert-torch")

import torch
from small import IMAGES, model
from torch import nn

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.exporters.litert import LiteRtExporter


@pytest.fixture(scope="module")
def flatbuffer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flatbuffer") / "m.tflite"
    artifact = LiteRtExporter().export(Source("fp32", Path(), model(), (3, 8, 8)), path)
    assert artifact.bytes == path.stat().st_size
    return path


@pytest.mark.parametrize("batch_size", [1, 4])
def test_it_computes_what_the_model_does_image_by_image(flatbuffer: Path, batch_size: int) -> None:
    runner = open_runner(flatbuffer, threads=1)
    got = logits(runner, IMAGES, batch_size)
    assert runner.image_shape == (3, 8, 8)
    runner.close()
    with torch.no_grad():
        check_parity(model()(torch.from_numpy(IMAGES)).numpy(), got)


def test_a_model_it_cannot_take_is_an_expected_error(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(MvpError, match="LiteRT cannot take this model"):
        LiteRtExporter().export(Source("fp32", Path(), Branching(), (3, 8, 8)), tmp_path / "m.tflite")


def test_what_cannot_be_run_is_an_expected_error(flatbuffer: Path, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"no model")
    with pytest.raises(MvpError, match="LiteRT cannot load"):
        open_runner(tmp_path / "m.tflite")
    with pytest.raises(MvpError, match="--device cpu") as error:
        open_runner(flatbuffer, device="cuda")
    assert error.value.code == ExitCode.ENVIRONMENT
