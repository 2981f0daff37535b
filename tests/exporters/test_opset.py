"""Reading an opset without onnx, and files written again for an older one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes.models import classifier, save
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, version_converter

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.opset import lower_opset, read_opset


def run(path: Path, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options).run(None, {"input": images})[0]


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("opset", [13, 17, 18, 19])
def test_the_opset_is_read_without_onnx(tmp_path: Path, opset: int) -> None:
    path = classifier(tmp_path / "a.onnx", opset=opset)
    model = onnx.load(path)
    model.opset_import.insert(0, helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    assert read_opset(path) == opset


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_what_is_not_a_model_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "a.onnx"
    path.write_bytes(content)
    with suppress(MvpError):  # any other error fails the test
        assert isinstance(read_opset(path), int)


def test_a_lowered_model_computes_the_same_for_any_batch(tmp_path: Path) -> None:
    source = classifier(tmp_path / "a.onnx", opset=18)
    low = lower_opset(source, tmp_path / "b.onnx", 17)
    assert read_opset(low) == 17
    for batch in (1, 5):
        np.testing.assert_allclose(run(low, images(batch, 3, 8, 8)), run(source, images(batch, 3, 8, 8)), rtol=1e-6)
    (mean,) = [node for node in onnx.load(low).graph.node if node.op_type == "ReduceMean"]
    assert [list(a.ints) for a in mean.attribute if a.name == "axes"] == [[2, 3]]
    used = {name for node in onnx.load(low).graph.node for name in node.input}
    assert {tensor.name for tensor in onnx.load(low).graph.initializer} <= used


def test_a_file_may_be_lowered_in_place_and_again(tmp_path: Path) -> None:
    path = classifier(tmp_path / "a.onnx", opset=18)
    once = lower_opset(path, path, 17).read_bytes()
    assert lower_opset(path, path, 17).read_bytes() == once
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def test_int8_models_can_be_lowered(tmp_path: Path) -> None:
    low = lower_opset(classifier(tmp_path / "a.onnx", "int8", opset=19), tmp_path / "b.onnx", 17)
    assert read_opset(low) == 17


def graph_of(path: Path, *nodes: onnx.NodeProto, opset: int = 18, **weights: np.ndarray) -> Path:
    return save(path, list(nodes), weights, opset=opset, logits=("batch", "n"))


MEAN = helper.make_node("ReduceMean", ["x", "axes"], ["logits"], name="mean", keepdims=0)
AXES = np.array([2, 3])


def test_below_17_layer_normalization_is_spelt_out(tmp_path: Path) -> None:
    scale = {"scale": images(8), "bias": images(8)}
    normalize = helper.make_node("LayerNormalization", ["input", "scale", "bias"], ["x"], name="ln", epsilon=1e-3)
    path = graph_of(tmp_path / "a.onnx", normalize, MEAN, axes=AXES, **scale)
    low = lower_opset(path, tmp_path / "b.onnx", 16)
    assert "LayerNormalization" not in {node.op_type for node in onnx.load(low).graph.node}
    np.testing.assert_allclose(run(low, images(2, 3, 8, 8)), run(path, images(2, 3, 8, 8)), rtol=1e-4, atol=1e-6)
    assert "LayerNormalization" in {n.op_type for n in onnx.load(lower_opset(path, low, 17)).graph.node}


def test_pad_and_split_keep_their_meaning(tmp_path: Path) -> None:
    pad = helper.make_node("Pad", ["input", "pads"], ["padded"], name="pad")
    split = helper.make_node("Split", ["padded"], ["x", "rest"], name="split", axis=3, num_outputs=2)
    path = graph_of(tmp_path / "a.onnx", pad, split, MEAN, axes=AXES, pads=np.array([0, 0, 0, 0, 0, 0, 0, 2]))
    low = lower_opset(path, tmp_path / "b.onnx", 17)
    np.testing.assert_allclose(run(low, images(2, 3, 8, 8)), run(path, images(2, 3, 8, 8)), rtol=1e-6)


def test_parts_of_unequal_size_are_refused_not_changed(tmp_path: Path) -> None:
    split = helper.make_node("Split", ["input"], ["x", "b", "c"], name="split", axis=3, num_outputs=3)  # 3, 3, 2
    path = graph_of(tmp_path / "a.onnx", split, MEAN, axes=AXES)
    with pytest.raises(MvpError):
        lower_opset(path, tmp_path / "b.onnx", 17)
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("Mish", ["input"], ["x"], name="act"), "Mish node 'act' does not exist in opset 17"),
        (helper.make_node("Pad", ["input", "pads", "", "side"], ["x"], name="p"), "uses an input that opset 17"),
        (helper.make_node("Resize", ["input", "", "by"], ["x"], name="r", antialias=1), "uses antialias"),
    ],
)
def test_what_the_older_opset_cannot_say_is_refused(tmp_path: Path, node: onnx.NodeProto, reason: str) -> None:
    extra = {"pads": np.array([1, 1]), "side": np.array([3]), "by": np.array([1, 1, 2, 2], np.float32)}
    used = {name: value for name, value in extra.items() if name in node.input}
    path = graph_of(tmp_path / "a.onnx", node, MEAN, axes=AXES, **used)
    with pytest.raises(MvpError, match=reason):
        lower_opset(path, tmp_path / "b.onnx", 17)
    assert {file.name for file in tmp_path.iterdir()} == {"a.onnx"}


def test_a_result_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly(node: onnx.NodeProto, *_: object) -> list[onnx.NodeProto]:
        node.op_type = node.op_type.replace("Relu", "Abs")
        return [node]

    monkeypatch.setattr("mvp_deploy.exporters.opset._lowered", wrongly)
    pool = helper.make_node("GlobalMaxPool", ["x"], ["pooled"])
    flat = helper.make_node("Flatten", ["pooled"], ["logits"])
    path = graph_of(tmp_path / "a.onnx", helper.make_node("Relu", ["input"], ["x"]), pool, flat)
    with pytest.raises(MvpError, match="computes something else") as caught:
        lower_opset(path, tmp_path / "b.onnx", 17)
    assert caught.value.code == ExitCode.PARITY
    assert not (tmp_path / "b.onnx").exists()


def test_onnxs_own_converter_is_still_no_alternative(tmp_path: Path) -> None:
    """When this fails, exporters/opset.py may have become needless."""
    converted = version_converter.convert_version(onnx.load(classifier(tmp_path / "a.onnx", opset=18)), 17)
    with pytest.raises(onnx.checker.ValidationError, match="noop_with_empty_axes"):
        onnx.checker.check_model(converted)
