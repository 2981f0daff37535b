from __future__ import annotations

from pathlib import Path

import pytest

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.protocol import Source

pytest.importorskip("pnnx", reason="pnnx is not installed: pip install pnnx ncnn")
pytest.importorskip("ncnn", reason="ncnn is not installed: pip install pnnx ncnn")

import torch
from small import IMAGES, model
from torch import nn

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.exporters.ncnn import NcnnExporter
from mvp_deploy.exporters.protocol import size_of


@pytest.fixture(scope="module")
def param(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ncnn") / "m.fp32.ncnn.param"
    artifact = NcnnExporter().export(Source("fp32", Path(), model(), (3, 8, 8)), path)
    assert artifact.bytes == size_of(path) == sum(file.stat().st_size for file in path.parent.iterdir())
    return path


@pytest.mark.parametrize("batch_size", [1, 4])
def test_it_computes_what_the_model_does_image_by_image(param: Path, batch_size: int) -> None:
    runner = open_runner(param, threads=1)
    got = logits(runner, IMAGES, batch_size)
    assert runner.image_shape == (3, 8, 8)
    assert runner.details["threads"] == "1"
    runner.close()
    with torch.no_grad():
        check_parity(model()(torch.from_numpy(IMAGES)).numpy(), got)


def test_the_same_model_gives_the_same_files(param: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.ncnn.param"
    NcnnExporter().export(Source("fp32", Path(), model(), (3, 8, 8)), again)
    for suffix in (".param", ".bin"):
        assert again.with_suffix(suffix).read_bytes() == param.with_suffix(suffix).read_bytes()


def test_an_operator_that_ncnn_lacks_is_named(tmp_path: Path) -> None:
    class Unbound(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second, third = x.reshape(1, 3, 2, 4, 8).permute(1, 0, 2, 3, 4).unbind(0)
            return (first + second * third).flatten(1)

    with pytest.raises(MvpError, match=r"ncnn cannot take this model: it has no .*reshape"):
        NcnnExporter().export(Source("fp32", Path(), Unbound(), (3, 8, 8)), tmp_path / "m.ncnn.param")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_run_is_an_expected_error(param: Path, tmp_path: Path) -> None:
    (tmp_path / "m.param").write_bytes(b"no model")
    with pytest.raises(MvpError, match=r"ncnn cannot load m.param.*input's size"):
        open_runner(tmp_path / "m.param")
    (tmp_path / "m.param").write_bytes(param.read_bytes())
    with pytest.raises(MvpError, match=r"ncnn cannot load m.param with m.bin"):
        open_runner(tmp_path / "m.param")
    with pytest.raises(MvpError, match="--device cpu") as error:
        open_runner(param, device="cuda")
    assert error.value.code == ExitCode.ENVIRONMENT
