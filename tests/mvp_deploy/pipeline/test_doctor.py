from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
from click.testing import CliRunner

from mvp_deploy.cli import main
from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.errors import InputError
from mvp_deploy.pipeline import doctor


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def select(index: int = 0) -> cuda.Gpu:
        raise InputError("no NVIDIA driver here")

    monkeypatch.setattr(cuda, "select", select)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "select", lambda index=0: cuda.Gpu("Orin", "8.7", 16, 32 << 30, "12.6"))


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Installed packages as told; the others as they are."""
    real = doctor.version

    def version(name: str) -> str:
        if name not in versions:
            return real(name)
        if versions[name] is None:
            raise PackageNotFoundError(name)
        return str(versions[name])

    monkeypatch.setattr(doctor, "version", version)


def test_what_the_tests_need_is_found(without_gpu: None) -> None:
    found = findings()
    for name in ("python", "torch", "timm", "onnx", "onnxscript", "onnxruntime"):
        assert found[name].state == "ok", found[name]
        assert not found[name].cure


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("torch", "pip install 'mvp-deploy[train]'"),
        ("timm", "pip install 'mvp-deploy[train]'"),
        ("onnx", "pip install 'mvp-deploy[train]'"),
        ("openvino", "pip install 'mvp-deploy[openvino]'"),
        ("executorch", "pip install 'mvp-deploy[executorch]'"),
    ],
)
def test_what_is_not_installed_comes_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch, without_gpu: None, name: str, cure: str
) -> None:
    pretend(monkeypatch, **{name: None})
    found = findings()[name]
    assert found.state == "missing"
    assert found.cure == cure


def test_without_a_driver_tensorrt_is_not_touched(monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> None:
    pretend(monkeypatch, tensorrt="10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import would fail
    found = findings()["tensorrt"]
    assert found.state == "missing"
    assert "no NVIDIA GPU" in found.detail


def test_a_gpu_that_torch_or_onnxruntime_cannot_use_is_reported_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, with_gpu: None
) -> None:
    import onnxruntime
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    pretend(monkeypatch, tensorrt=None)
    found = findings()
    assert "Orin" in found["NVIDIA GPU"].detail
    assert found["torch"].state == found["onnxruntime"].state == "broken"
    assert "download.pytorch.org" in found["torch"].cure
    assert "onnxruntime-gpu" in found["onnxruntime"].cure
    assert found["tensorrt"].cure == "pip install tensorrt"


def test_a_broken_installation_is_a_line_not_a_crash(monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> None:
    def fail() -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "_timm", fail)
    found = findings()["timm"]
    assert found.state == "broken"
    assert "nms" in found.detail
    assert "--force-reinstall" in found.cure


def test_it_runs_where_nothing_is_installed() -> None:
    code = (
        "import sys\n"
        "from importlib import metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "for name in ('torch', 'timm', 'onnx', 'onnxruntime', 'rich', 'psutil'): sys.modules[name] = None\n"
        "from mvp_deploy.cli import main\n"
        "main(['doctor', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    states = {finding["name"]: finding["state"] for finding in json.loads(done.stdout)["findings"]}
    assert states["python"] == "ok"
    assert states["torch"] == states["onnxruntime"] == "missing"


def test_the_command_prints_a_line_each(without_gpu: None) -> None:
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0
    assert sum(line.startswith(("ok", "missing", "broken")) for line in done.output.splitlines()) == len(findings())
