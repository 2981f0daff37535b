from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.protocol import Source

pytest.importorskip("coremltools", reason="Core ML is not installed: pip install coremltools")

import coremltools
import torch
from small import IMAGES, model
from torch import nn

from mvp_deploy.benchmark.runner import STAND_IN, logits, open_runner
from mvp_deploy.exporters.coreml import CoreMlExporter
from mvp_deploy.exporters.protocol import size_of


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "m.fp32.mlpackage"
    artifact = CoreMlExporter().export(Source("fp32", Path(), model(), (3, 8, 8)), path)
    assert artifact.bytes == size_of(path) == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path


def computed(path: Path, images: np.ndarray = IMAGES) -> np.ndarray:
    runner = open_runner(path, STAND_IN)
    try:
        return logits(runner, images, 2)
    finally:
        runner.close()


def reference(net: nn.Module, images: np.ndarray = IMAGES) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = net(torch.from_numpy(images)).numpy()
    return found


def test_the_program_says_what_the_model_computes(package: Path) -> None:
    runner = open_runner(package, STAND_IN)
    assert runner.image_shape == (3, 8, 8)
    assert "not Core ML" in runner.details["runtime"]
    check_parity(reference(model()), computed(package))


def test_fp16_is_half_as_large_and_computed_in_fp16(package: Path, tmp_path: Path) -> None:
    CoreMlExporter().export(Source("fp16", Path(), model(), (3, 8, 8)), tmp_path / "m.mlpackage")
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert (tmp_path / "m.mlpackage" / weights).stat().st_size < 0.6 * (package / weights).stat().st_size
    half = computed(tmp_path / "m.mlpackage")
    check_parity(reference(model()), half, 2e-2, exact=False)
    assert not np.allclose(half, computed(package), rtol=1e-6, atol=0)


def test_int8_has_its_weights_in_int8_and_its_classes_in_the_metadata(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96 * 64, 4)).eval()
    sizes = {}
    for precision in ("fp16", "int8"):
        path = tmp_path / f"{precision}.mlpackage"
        source = Source(precision, Path(), net, (3, 8, 8), classes=("cat", "dög", "cow", "hen"))
        sizes[precision] = CoreMlExporter().export(source, path).bytes
        metadata = coremltools.models.MLModel(str(path), skip_model_load=True).user_defined_metadata
        assert json.loads(metadata["classes"]) == list(source.classes)
    assert sizes["int8"] < 0.7 * sizes["fp16"]
    eight = computed(tmp_path / "int8.mlpackage")
    check_parity(reference(net), eight, 0.3, exact=False)
    assert not np.array_equal(eight, computed(tmp_path / "fp16.mlpackage"))


def test_the_same_model_gives_the_same_files(package: Path, tmp_path: Path) -> None:
    again = tmp_path / package.name
    for _ in range(2):  # over an older one, too
        CoreMlExporter().export(Source("fp32", Path(), model(), (3, 8, 8)), again)
    coremltools.models.MLModel(str(again), skip_model_load=True)  # it writes a manifest of another layout again
    for file in (file for file in package.rglob("*") if file.is_file()):
        assert (again / file.relative_to(package)).read_bytes() == file.read_bytes(), file.name


class Mixed(nn.Module):
    """Operators of which each has its own arguments in Core ML."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.norm, self.qkv, self.head = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.hardswish(self.conv(x))
        x = x * nn.functional.hardsigmoid(x.mean((2, 3), keepdim=True)) + nn.functional.relu6(self.depthwise(x))
        x = nn.functional.pad(x, (1, 2, 0, 1), value=0.5)
        x = nn.functional.max_pool2d(x, 3, 2, 1) + nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        x = torch.cat([x[:, :4], nn.functional.gelu(x[:, 4:])], 1)
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(tokens).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head((tokens + nn.functional.silu(mixed)).mean(1))


def test_attention_pools_pads_and_activations(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Mixed().eval()
    images = np.random.default_rng(1).standard_normal((3, 3, 16, 16), np.float32)
    CoreMlExporter().export(Source("fp32", Path(), net, (3, 16, 16)), tmp_path / "m.mlpackage")
    check_parity(reference(net, images), computed(tmp_path / "m.mlpackage", images))


def test_what_it_cannot_take_or_check_is_an_expected_error(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    class Sine(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).sin()

    with pytest.raises(MvpError, match="Core ML cannot take this model"):
        CoreMlExporter().export(Source("fp32", Path(), Branching(), (3, 8, 8)), tmp_path / "m.mlpackage")
    assert not list(tmp_path.iterdir())
    CoreMlExporter().export(Source("fp32", Path(), Sine(), (3, 8, 8)), tmp_path / "m.mlpackage")
    with pytest.raises(
        MvpError, match=r"cannot be checked where Core ML does not run, for its sin: export it on macOS"
    ):
        open_runner(tmp_path / "m.mlpackage", STAND_IN)
    (tmp_path / "m.mlpackage/Data/com.apple.CoreML/model.mlmodel").write_bytes(b"no model")
    with pytest.raises(MvpError, match=r"Core ML cannot load m.mlpackage"):
        open_runner(tmp_path / "m.mlpackage", STAND_IN)


def test_elsewhere_than_on_a_mac_it_is_not_timed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(MvpError, match="needs Core ML, which runs on macOS alone") as error:
        open_runner(package)
    assert error.value.code == ExitCode.ENVIRONMENT


def test_on_a_mac_it_runs_in_core_ml(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class OnMac:  # Core ML itself is macOS's
        def __init__(self, path: str, compute_units: Any) -> None:
            made.append((path, compute_units.name))
            self._spec = coremltools.models.utils.load_spec(path)

        def get_spec(self) -> Any:
            return self._spec

        def predict(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            ((name, image),) = given.items()
            assert (name, image.shape) == ("images", (1, 3, 8, 8))
            return {"logits": reference(model(), image)}

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(coremltools, "models", SimpleNamespace(MLModel=OnMac, utils=coremltools.models.utils))
    monkeypatch.setitem(sys.modules, "coremltools.models", coremltools.models)
    runner = open_runner(package, device="auto")
    assert runner.image_shape == (3, 8, 8)
    check_parity(reference(model()), logits(runner, IMAGES, 2))
    assert made == [(str(package), "ALL")]
    with pytest.raises(MvpError, match="leave out --threads"):
        open_runner(package, threads=2)
    with pytest.raises(MvpError, match="cuda was asked for"):
        open_runner(package, device="cuda")
