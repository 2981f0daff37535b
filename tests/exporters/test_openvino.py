from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import make_onnx

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.protocol import Source
from tests.onnxfiles import run_onnx

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.exporters.openvino import OpenVinoExporter
from mvp_deploy.exporters.protocol import size_of

IMAGES = np.random.default_rng(0).standard_normal((7, 3, 8, 8), np.float32)


def source(path: Path, precision: str = "fp32") -> Source:
    return Source(precision, make_onnx(path), None, (3, 8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_it_computes_what_the_onnx_file_does(tmp_path: Path, batch_size: int) -> None:
    made = source(tmp_path / "m.onnx")
    artifact = OpenVinoExporter().export(made, tmp_path / "m.xml")
    runner = open_runner(artifact.path, threads=1)
    got = logits(runner, IMAGES, batch_size)
    assert runner.name == "openvino CPU"
    assert runner.details["threads"] == "1"
    assert runner.image_shape == (3, 8, 8)
    runner.close()
    check_parity(run_onnx(made.onnx, IMAGES), got)  # in float32, also where the CPU has bfloat16


def test_the_artifact_says_what_lies_on_disk_and_nothing_of_this_machine(tmp_path: Path) -> None:
    artifact = OpenVinoExporter().export(source(tmp_path / "m.onnx"), tmp_path / "m.xml")
    assert artifact.bytes == size_of(artifact.path) == sum(f.stat().st_size for f in tmp_path.glob("m.[xb]*"))
    content = artifact.path.read_bytes()
    assert str(tmp_path).encode() not in content
    assert str(Path.home()).encode() not in content


def test_fp16_is_refused_and_not_computed_in_something_else(tmp_path: Path) -> None:
    with pytest.raises(MvpError, match="does not deliver fp16"):
        OpenVinoExporter().export(source(tmp_path / "m.onnx", "fp16"), tmp_path / "m.xml")


def test_what_is_not_a_model_is_an_expected_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(MvpError, match="OpenVINO cannot take"):
        OpenVinoExporter().export(Source("fp32", tmp_path / "m.onnx", None, (3, 8, 8)), tmp_path / "m.xml")  # type: ignore[arg-type]
    (tmp_path / "m.xml").write_text("no model")
    with pytest.raises(MvpError, match="OpenVINO cannot load"):
        open_runner(tmp_path / "m.xml")


def test_a_gpu_is_not_silently_replaced_by_the_cpu(tmp_path: Path) -> None:
    artifact = OpenVinoExporter().export(source(tmp_path / "m.onnx"), tmp_path / "m.xml")
    with pytest.raises(MvpError, match="--device cpu") as error:
        open_runner(artifact.path, device="cuda")
    assert error.value.code == ExitCode.ENVIRONMENT


def test_it_is_imported_without_what_sends_usage_data() -> None:
    look = (
        "import sys; from mvp_deploy.exporters import openvino_import; openvino_import.openvino().convert_model; "
        "sys.exit(any(name.startswith('openvino_telemetry.') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", look]).returncode == 0
