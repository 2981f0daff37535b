from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.protocol import Source

pytest.importorskip("litert_torch", reason="LiteRT is not installed: pip install litert-torch")

import torch
from small import IMAGES, model
from torch import nn

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.calibration.convert import convert_own_int8
from mvp_deploy.calibration.guard import Limit
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.calibration.ranges import extremes
from mvp_deploy.exporters.litert import LiteRtExporter
from mvp_deploy.exporters.litert_int8 import Flatbuffer

PLAIN = Source("fp32", Path(), model(), (3, 8, 8))


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


def quantized(whole: Flatbuffer, layers: Collection[str], path: Path) -> np.ndarray:
    path.write_bytes(whole.quantized(extremes(whole.values(IMAGES)), layers))
    runner = open_runner(path, threads=1)
    found = logits(runner, IMAGES, 5)
    runner.close()
    return found


def test_int8_is_smaller_and_only_the_layers_named_are_in_it(flatbuffer: Path, tmp_path: Path) -> None:
    whole = LiteRtExporter().quantizable(PLAIN, flatbuffer)
    with torch.no_grad():
        reference = model()(torch.from_numpy(IMAGES)).numpy()
    assert [name.split()[0] for name in whole.layers] == ["conv_2d", "fully_connected"]
    both = quantized(whole, whole.layers, tmp_path / "both.tflite")
    check_parity(reference, both, 0.3, exact=False)
    one = quantized(whole, whole.layers[:1], tmp_path / "one.tflite")
    assert (tmp_path / "both.tflite").stat().st_size < 0.8 * flatbuffer.stat().st_size
    assert np.abs(one - reference).max() > 0
    assert not np.array_equal(one, both)


@pytest.mark.parametrize("groups", [1, 3])  # of three: depthwise
def test_a_channel_that_is_switched_off_keeps_its_bias_in_int8(groups: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv, last = nn.Conv2d(3, 3, 3, groups=groups), nn.Linear(3, 4)
    with torch.no_grad():
        conv.weight[1] *= 1e-12
        conv.bias[1] = 0.5
        last.weight[:, 1] = torch.tensor([-9.0, 9.0, -5.0, 5.0])
    net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    LiteRtExporter().export(Source("fp32", Path(), net, (3, 8, 8)), tmp_path / "m.tflite")
    whole = LiteRtExporter().quantizable(PLAIN, tmp_path / "m.tflite")
    with torch.no_grad():
        reference = net(torch.from_numpy(IMAGES)).numpy()
    check_parity(reference, quantized(whole, whole.layers, tmp_path / "int8.tflite"), 0.05)


def test_the_same_images_give_the_same_int8_file_in_any_order(flatbuffer: Path) -> None:
    whole = LiteRtExporter().quantizable(PLAIN, flatbuffer)
    made = [whole.quantized(extremes(whole.values(images)), whole.layers) for images in (IMAGES, IMAGES[::-1])]
    assert made[0] == made[1]


def test_it_is_held_to_accuracy_and_carries_its_labels(flatbuffer: Path, tmp_path: Path) -> None:
    images = CalibrationImages(IMAGES, np.arange(5))
    tried: list[bytes] = []

    def accuracy_of(content: bytes) -> float:
        tried.append(content)
        return float(len(tried) != 2)  # the first int8 file loses everything

    def logits_of(content: bytes, given: np.ndarray) -> np.ndarray:
        (tmp_path / "tried.tflite").write_bytes(content)
        return logits(open_runner(tmp_path / "tried.tflite", threads=1), given, len(given))

    limit = Limit(accuracy_of, 5, 0.01)
    whole = LiteRtExporter().quantizable(PLAIN, flatbuffer)
    made = convert_own_int8(whole, tmp_path / "int8.tflite", images, limit, logits_of, method="entropy")
    assert len(made.kept) == 1
    assert set(made.kept) < set(whole.layers)
    assert made.path.read_bytes() == tried[-1]
    source = Source("int8", made.path, model(), (3, 8, 8), classes=("cat", "dög", "cow", "hen"))
    LiteRtExporter().export(source, tmp_path / "m.tflite")
    with ZipFile(tmp_path / "m.tflite") as archive:
        assert archive.read("labels.txt").decode().split() == list(source.classes)
    shown = open_runner(tmp_path / "m.tflite", threads=1)
    np.testing.assert_array_equal(logits(shown, IMAGES, 5), logits_of(tried[-1], IMAGES))


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
