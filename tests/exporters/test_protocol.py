from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from mvp_deploy.exporters import protocol
from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.protocol import Artifact, Exporter, Source, exporter, exporters

PLACE = Source("int8", Path("unused.onnx"), None, (3, 8, 8))  # type: ignore[arg-type]


class Tflite:
    """An exporter as another package would bring it."""

    name = "tflite"
    suffix = ".tflite"
    needs = "pip install something"
    precisions: tuple[str, ...] = ("fp32",)
    int8_form: protocol.Int8Form = "cpu"

    def check(self) -> None:
        protocol.require("no_such_package", self)

    def export(self, source: Source, path: Path) -> Artifact:
        protocol.check_precision(self, source.precision)
        return Artifact(path, self.name, source.precision, 0)


def test_the_project_brings_these_installed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "entry_points", lambda **of: EntryPoints())
    assert set(exporters()) >= {"onnx", "openvino", "executorch", "tensorrt"}
    for name in exporters():
        found = exporter(name)
        assert found.name == name
        assert found.suffix.startswith(".")
        assert found.precisions


def test_another_package_adds_one_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("their_package")
    module.Tflite = Tflite  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_package", module)
    entry = EntryPoint("tflite", "their_package:Tflite", protocol.GROUP)
    monkeypatch.setattr(protocol, "entry_points", lambda **of: EntryPoints([entry]).select(**of))
    assert exporters() == (
        "coreml",
        "executorch",
        "litert",
        "mnn",
        "ncnn",
        "onnx",
        "onnx-uint8",
        "openvino",
        "tensorrt",
        "tflite",
        "torch",
    )
    assert isinstance(exporter("tflite"), Tflite)


def test_for_an_unknown_target_the_known_ones_are_named() -> None:
    with pytest.raises(MvpError, match=r"no target 'caffe'; installed: .*openvino"):
        exporter("caffe")


def test_a_missing_package_is_one_sentence_with_the_install_line() -> None:
    with pytest.raises(MvpError, match="needs no_such_package, which is not installed: pip install something") as e:
        Tflite().check()
    assert e.value.code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("coreml", "coremltools"),
        ("openvino", "openvino"),
        ("executorch", "executorch"),
        ("litert", "litert_torch"),
        ("mnn", "MNN"),
        ("ncnn", "pnnx"),
    ],
)
def test_each_runtime_can_be_missing(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "find_spec", lambda wanted: None)
    with pytest.raises(MvpError, match=f"needs {module}.*pip install") as error:
        exporter(name).check()
    assert error.value.code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize("made", [Tflite()])
def test_a_precision_that_is_not_delivered_is_refused(made: Exporter) -> None:
    with pytest.raises(MvpError, match="does not deliver int8: ask for fp32"):
        made.export(PLACE, Path("m.tflite"))


def test_onnx_targets_are_the_graph_itself(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"graph")
    source = Source("int8", tmp_path / "graph.onnx", None, (3, 8, 8))  # type: ignore[arg-type]
    for name, form in (("onnx", "cpu"), ("tensorrt", "tensorrt")):
        found = exporter(name)
        assert found.int8_form == form
        artifact = found.export(source, tmp_path / f"m{found.suffix}")
        assert (artifact.target, artifact.precision, artifact.bytes) == (name, "int8", 5)
        assert artifact.path.read_bytes() == b"graph"
