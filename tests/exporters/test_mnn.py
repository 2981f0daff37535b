from __future__ import annotations

import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import TOLERANCE, check_parity
from mvp_deploy.exporters.protocol import Source

pytest.importorskip("MNN", reason="MNN is not installed: pip install MNN")

import MNN
import onnx
import torch
from onnx import TensorProto, helper
from small import IMAGES, model
from torch import nn

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.exporters.mnn import CONVERT, MnnExporter, sealed
from mvp_deploy.exporters.onnx import export_onnx


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.onnx, and m.<precision>.mnn for each precision."""
    path = tmp_path_factory.mktemp("mnn")
    whole = export_onnx(model(), torch.zeros(1, 3, 8, 8), path / "m.onnx", {"classes": ["cat", "dog", "cow", "hen"]})
    for precision in TOLERANCE:
        artifact = MnnExporter().export(source(whole, precision), path / f"m.{precision}.mnn")
        assert artifact.bytes == artifact.path.stat().st_size
        assert (precision == "fp32") != any(f"weights are {precision}" in note for note in artifact.notes)
    return path


def source(graph: Path, precision: str = "fp32") -> Source:
    return Source(precision, graph, model(), (3, 8, 8))


def graph_of(path: Path, *nodes: onnx.NodeProto) -> Path:
    """A graph from «input» [b, 3, 8, 8] to «logits»."""
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 3, 8, 8])
    found = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given], [found])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def run(path: Path, batch_size: int) -> np.ndarray:
    runner = open_runner(path, threads=1)
    found = logits(runner, IMAGES, batch_size)
    assert runner.image_shape == (3, 8, 8)
    assert runner.details["threads"] == "1"
    runner.close()
    return found


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_it_computes_what_the_model_does_in_any_batch(folder: Path, precision: str, batch_size: int) -> None:
    with torch.no_grad():
        reference = model()(torch.from_numpy(IMAGES)).numpy()
    found = run(folder / f"m.{precision}.mnn", batch_size)
    check_parity(reference, found, TOLERANCE[precision], exact=precision == "fp32")
    assert (precision == "fp32") == (np.abs(found - reference).max() < 1e-5)


def test_fewer_bits_make_smaller_files(folder: Path) -> None:
    whole, half, quarter = ((folder / f"m.{precision}.mnn").stat().st_size for precision in ("fp32", "fp16", "int8"))
    assert quarter < half < 0.7 * whole


def test_the_same_model_gives_the_same_file_and_another_one_another_identifier(folder: Path, tmp_path: Path) -> None:
    MnnExporter().export(source(folder / "m.onnx"), tmp_path / "again.mnn")
    assert (tmp_path / "again.mnn").read_bytes() == (folder / "m.fp32.mnn").read_bytes()
    identifiers = {MNN.get_model_uuid(str(folder / f"m.{precision}.mnn")) for precision in TOLERANCE}
    assert len(identifiers) == len(TOLERANCE)


def test_gelu_is_exact(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.GELU(), nn.Linear(64, 4)).eval()
    with torch.no_grad():
        reference = net(torch.from_numpy(IMAGES)).numpy()
    MnnExporter().export(source(export_onnx(net, torch.zeros(1, 3, 8, 8), tmp_path / "g.onnx", {})), tmp_path / "g.mnn")
    assert check_parity(reference, run(tmp_path / "g.mnn", 5)).relative < 1e-5


def test_the_converter_prints_nothing_here_and_leaves_nothing_in_the_current_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    MnnExporter().export(source(folder / "m.onnx"), Path("m.mnn"))
    run(Path("m.mnn"), 5)
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["m.mnn"]


def test_what_sends_usage_data_is_never_imported(folder: Path, tmp_path: Path) -> None:
    load = "import sys; from pathlib import Path; from mvp_deploy.benchmark.runner import open_runner"
    load += "; open_runner(Path(sys.argv[1]))"
    found = "; print([name for name in sys.modules if name.startswith(('MNN.tools', 'aliyun'))])"
    for code in (CONVERT, load):
        call = [sys.executable, "-c", code + found, str(folder / "m.fp32.mnn")]
        done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.endswith("[]\n")


def test_an_operator_that_mnn_lacks_is_named(tmp_path: Path) -> None:
    graph = graph_of(tmp_path / "g.onnx", helper.make_node("Blur", ["input"], ["logits"]))
    with pytest.raises(MvpError, match=r"MNN cannot take this model: it has no Blur\.$"):
        MnnExporter().export(source(graph), tmp_path / "m.mnn")
    assert not (tmp_path / "m.mnn").exists()


def test_a_graph_that_cannot_be_read_is_an_expected_error(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(MvpError, match=r"MNN cannot take this model: its converter ends with .*check your file"):
        MnnExporter().export(source(tmp_path / "g.onnx"), tmp_path / "m.mnn")


@pytest.mark.parametrize("damage", ["text", "empty", "half", "cut", "onnx", "flipped", "foreign"])
def test_a_damaged_file_is_an_expected_error(folder: Path, damage: str, tmp_path: Path) -> None:
    """MNN itself would crash on some whose bits are flipped."""
    whole = (folder / "m.fp32.mnn").read_bytes()
    content = {
        "text": b"no model",
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "cut": whole[:-1],
        "onnx": (folder / "m.onnx").read_bytes(),
        "flipped": whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:],
        "foreign": whole.replace(
            MNN.get_model_uuid(str(folder / "m.fp32.mnn")).encode(), str(uuid.UUID(int=1)).encode()
        ),
    }
    (tmp_path / "m.mnn").write_bytes(content[damage])
    with pytest.raises(MvpError, match=r"MNN cannot load m.mnn: it is damaged, or .* Export it again\.$"):
        open_runner(tmp_path / "m.mnn")


def test_damage_is_found_wherever_it_is(folder: Path) -> None:
    whole = (folder / "m.int8.mnn").read_bytes()
    assert sealed(whole) == whole
    for place in range(0, len(whole), 7):
        flipped = whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :]
        with suppress(ValueError):  # the identifier is no longer one
            assert sealed(flipped) != flipped


def test_a_file_with_another_input_is_an_expected_error(folder: Path, tmp_path: Path) -> None:
    graph = onnx.load(folder / "m.onnx")
    graph.graph.input[0].name = graph.graph.node[0].input[0] = "image"
    onnx.save(graph, tmp_path / "g.onnx")
    MnnExporter().export(source(tmp_path / "g.onnx"), tmp_path / "m.mnn")
    with pytest.raises(MvpError, match=r"MNN cannot load m.mnn: .* Export it again"):
        open_runner(tmp_path / "m.mnn")


def test_it_runs_on_the_cpu_alone(folder: Path) -> None:
    with pytest.raises(MvpError, match="--device cpu") as error:
        open_runner(folder / "m.fp32.mnn", device="cuda")
    assert error.value.code == ExitCode.ENVIRONMENT
