"""The check without a GPU: each rule on a small graph that breaks it, and none on graphs that keep to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes.models import classifier, save
from onnx import TensorProto, helper, numpy_helper

from mvp_deploy.exporters.errors import MvpError
from mvp_deploy.exporters.tensorrt.check import ERROR, WARNING, Finding, check
from mvp_deploy.exporters.tensorrt.releases import RELEASES, release_of

Edit = Callable[[onnx.ModelProto], None]


def findings(path: Path, release: str = "8.6") -> list[Finding]:
    return check(path, [RELEASES[release]])


def changed(path: Path, edit: Edit) -> Path:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)
    return path


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.name == name)


def constant(name: str, value: np.ndarray) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, numpy_helper.from_array(value, name)])

    return edit


@pytest.mark.parametrize("release", RELEASES)
def test_a_graph_that_keeps_to_the_rules_has_no_findings(tmp_path: Path, release: str) -> None:
    assert findings(classifier(tmp_path / "a.onnx", channels=32), release) == []
    assert findings(classifier(tmp_path / "b.onnx", "fp16", channels=32), release) == []


def test_what_overflows_in_float16_is_a_warning(tmp_path: Path) -> None:
    def square(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Pow", ["mean", "two"], ["squared"], name="square"))
        constant("two", np.array(2, np.float16))(model)

    (found,) = findings(changed(classifier(tmp_path / "a.onnx", "fp16", channels=32), square))
    assert (found.severity, found.nodes) == (WARNING, ("Pow node 'square'",))
    assert "can overflow" in found.reason


def test_a_newer_opset_is_an_error_for_the_releases_that_misread_it(tmp_path: Path) -> None:
    (found,) = check(classifier(tmp_path / "a.onnx", opset=18), list(RELEASES.values()))
    assert (found.severity, found.releases) == (ERROR, ("8.5", "8.6"))
    assert "opset 18" in found.reason
    assert "--opset 17" in found.cure


def foreign(model: onnx.ModelProto) -> None:
    node(model, "relu").domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def layer_normalization(path: Path) -> Path:
    nodes = [
        helper.make_node("LayerNormalization", ["input", "scale"], ["a"], name="ln1"),
        helper.make_node("LayerNormalization", ["a", "scale"], ["b"], name="ln2"),
        helper.make_node("ReduceMean", ["b"], ["logits"], name="mean", axes=[2, 3], keepdims=0),
    ]
    return save(path, nodes, {"scale": np.ones(8, np.float32)}, logits=("batch", 3))


def test_operators_a_release_lacks_are_named_once_with_all_their_nodes(tmp_path: Path) -> None:
    path = layer_normalization(tmp_path / "a.onnx")
    (found,) = check(path, [RELEASES["8.5"], RELEASES["8.6"]])
    assert found.nodes == ("LayerNormalization node 'ln1'", "LayerNormalization node 'ln2'")
    assert found.releases == ("8.5",)
    assert "--opset 16" in found.cure


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: node(m, "relu").__setattr__("op_type", "Mish"), "Mish is not among the operators"),
        (foreign, "com.microsoft.Relu is not ONNX's own"),
        (lambda m: node(m, "conv").__setattr__("op_type", "ConvInteger"), "a form of int8 TensorRT does not read"),
    ],
)
def test_operators_no_parser_reads_are_errors(tmp_path: Path, edit: Edit, reason: str) -> None:
    (found,) = findings(changed(classifier(tmp_path / "a.onnx"), edit))
    assert found.severity == ERROR
    assert reason in found.reason
    assert found.nodes[0].split("'")[1] in ("relu", "conv")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (constant("zero", np.array(0, np.uint8)), "quantises to uint8"),
        (constant("zero", np.array(3, np.int8)), "zero point is not zero"),
        (constant("zeros", np.zeros(32, np.int32)), "int32 bias"),
        (lambda m: m.graph.node[0].input.pop(), "quantises to uint8"),  # what ONNX takes when none is given
    ],
)
def test_quantization_tensorrt_refuses_is_an_error(tmp_path: Path, edit: Edit, reason: str) -> None:
    path = classifier(tmp_path / "a.onnx", "int8", channels=32)
    assert not [found for found in findings(path) if found.severity == ERROR]
    errors = [found for found in findings(changed(path, edit)) if found.severity == ERROR]
    assert [reason in found.reason for found in errors] == [True]
    assert errors[0].nodes[0].startswith(("QuantizeLinear", "DequantizeLinear"))


def test_a_computed_scale_is_an_error(tmp_path: Path) -> None:
    def compute(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node("Abs", ["scale"], ["computed"], name="abs"))
        node(model, "input_Q").input[1] = "computed"

    path = changed(classifier(tmp_path / "a.onnx", "int8", channels=32), compute)
    assert "scale is computed" in next(f.reason for f in findings(path) if f.severity == ERROR)


def test_small_quantized_convolutions_and_single_scales_cost_speed_and_accuracy(tmp_path: Path) -> None:
    reasons = [f.reason for f in findings(classifier(tmp_path / "a.onnx", "int8", channels=8))]
    assert any("fewer than 16 channels" in reason for reason in reasons)

    def one_scale(model: onnx.ModelProto) -> None:
        constant("scales", np.array(0.1, np.float32))(model)
        constant("zeros", np.array(0, np.int8))(model)

    path = changed(classifier(tmp_path / "b.onnx", "int8", channels=32), one_scale)
    assert any("one scale for all channels" in found.reason for found in findings(path))


def test_half_quantized_layers_run_in_floating_point(tmp_path: Path) -> None:
    path = changed(
        classifier(tmp_path / "a.onnx", "int8", channels=32), lambda m: node(m, "conv").input.__setitem__(0, "input")
    )
    assert any("only its weight is quantised" in found.reason for found in findings(path))


def test_a_residual_addition_wants_only_its_skip_quantized(tmp_path: Path) -> None:
    scale = {"scale": np.float32(0.1), "zero": np.int8(0), "w": np.ones((3, 3, 1, 1), np.float32)}

    def pair(name: str) -> list[onnx.NodeProto]:
        quantize = helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"], name=f"{name}_Q")
        return [quantize, helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"])]

    def residual(path: Path, branch: str) -> Path:
        nodes = [
            helper.make_node("Conv", ["input", "w"], ["branch"], name="conv"),
            *pair("branch"),
            *pair("input"),
            helper.make_node("Add", [branch, "input_dq"], ["sum"], name="add"),
            helper.make_node("ReduceMean", ["sum"], ["logits"], axes=[2, 3], keepdims=0),
        ]
        return save(path, nodes, {k: np.asarray(v) for k, v in scale.items()}, logits=("batch", 3))

    both = findings(residual(tmp_path / "a.onnx", "branch_dq"))
    assert [f.nodes for f in both if "do not fuse" in f.reason] == [("Add node 'add'",)]
    assert not any("do not fuse" in f.reason for f in findings(residual(tmp_path / "b.onnx", "branch")))


def test_a_quantized_output_is_named(tmp_path: Path) -> None:
    def quantize(model: onnx.ModelProto) -> None:
        node(model, "fc").output[0] = "raw"
        for kind, source, target in (("Quantize", "raw", "q"), ("Dequantize", "q", "logits")):
            made = helper.make_node(f"{kind}Linear", [source, "scale", "zero"], [target], name=kind)
            model.graph.node.append(made)

    path = changed(classifier(tmp_path / "a.onnx", "int8", channels=32), quantize)
    assert [f.nodes for f in findings(path) if "output itself" in f.reason] == [("DequantizeLinear node 'Dequantize'",)]


def test_mixed_types_are_an_error(tmp_path: Path) -> None:
    path = changed(
        classifier(tmp_path / "a.onnx", "fp16", channels=32),
        lambda m: node(m, "conv").input.__setitem__(0, "input"),  # float32, beside weights in float16
    )
    errors = [found for found in findings(path, "11.4") if found.severity == ERROR]
    assert errors[0].nodes[0] == "Conv node 'conv'"
    assert "FLOAT, FLOAT16" in errors[0].reason


def test_bfloat16_hardswish_is_an_error(tmp_path: Path) -> None:
    def convert(model: onnx.ModelProto) -> None:
        node(model, "relu").op_type = "HardSwish"
        before = helper.make_node("Cast", ["features"], ["low"], to=TensorProto.BFLOAT16)
        after = helper.make_node("Cast", ["high"], ["positive"], to=TensorProto.FLOAT)
        node(model, "relu").input[0], node(model, "relu").output[0] = "low", "high"
        model.graph.node.insert(1, before)
        model.graph.node.insert(3, after)

    path = changed(classifier(tmp_path / "a.onnx", channels=32), convert)
    assert "HardSwish in bfloat16" in findings(path)[0].reason


@pytest.mark.parametrize(
    ("precision", "channels", "aligned", "more"),
    [("fp32", 36, 8, ["Gemm node 'fc' (36 to 4 channels)"]), ("int8", 40, 32, [])],
)
def test_channels_off_the_alignment_are_named(
    tmp_path: Path, precision: str, channels: int, aligned: int, more: list
) -> None:
    found = findings(classifier(tmp_path / "a.onnx", precision, channels=channels))
    off = [f for f in found if "no multiple of" in f.reason]
    assert [f.nodes for f in off] == [(f"Conv node 'conv' (3 to {channels} channels)", *more)]
    assert off[0].cure == f"prune with --round-to {aligned}"
    assert off[0].severity == WARNING


def test_the_images_channels_and_the_classes_are_what_they_are(tmp_path: Path) -> None:
    """Three channels in and four classes out, and no finding."""
    assert findings(classifier(tmp_path / "a.onnx", channels=32)) == []


def test_errors_come_first(tmp_path: Path) -> None:
    severities = [found.severity for found in findings(classifier(tmp_path / "a.onnx", channels=18, opset=18))]
    assert severities == sorted(severities, key=lambda severity: severity != ERROR)
    assert len(set(severities)) == 2


def test_what_is_not_a_model_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x99 not a model")
    with pytest.raises(MvpError, match=r"a\.onnx is not a readable ONNX model"):
        findings(tmp_path / "a.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(MvpError, match=r"empty\.onnx is not a readable ONNX model \(it has no outputs\)"):
        findings(tmp_path / "empty.onnx")
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(MvpError, match="more than 2 GiB"):
        findings(tmp_path / "large.onnx")
    with pytest.raises(MvpError, match="no file"):
        findings(tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("version", "line"),
    [("8.5.2", "8.5"), ("8.6.1.post1", "8.6"), ("10.7.0", "10.3"), ("11.5.0", "11.4"), ("12.0", "11.4")],
)
def test_a_version_belongs_to_the_line_before_it(version: str, line: str) -> None:
    assert release_of(version).name == line


@pytest.mark.parametrize("version", ["8.4.1", "7.2", "banana"])
def test_older_versions_and_other_words_are_refused(version: str) -> None:
    with pytest.raises(MvpError):
        release_of(version)
