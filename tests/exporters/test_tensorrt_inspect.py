"""Reading the engine inspector: its dialects from 8 to 11, and what counts as proof of a precision."""

from __future__ import annotations

import json

import pytest

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.tensorrt.inspect import check_precision, layer_precisions


def information(*layers: dict, ends: str = "Bindings") -> str:
    return json.dumps({"Layers": list(layers), ends: ["input"]})


def layer(kind: str, given: str, name: str = "layer", **more: object) -> dict:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Format/Datatype": given}],
        "Outputs": [{"Name": "y", "Format/Datatype": given}],
        **more,
    }


@pytest.mark.parametrize(
    ("described", "precision"),
    [
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Row major linear FP16 format", "fp16"),
        ("Half", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("BFloat16", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Int8", "int8"),
    ],
)
def test_the_ways_to_describe_a_type(described: str, precision: str) -> None:
    assert layer_precisions(information(layer("CaskConvolution", described))) == {precision: 1}


@pytest.mark.parametrize("key", ["Datatype", "DataType"])
def test_tensorrt_11_splits_the_field(key: str) -> None:
    tensors = [{"Name": "x", "Format": "Row major linear FP16 format (kLINEAR)", key: "Half"}]
    found = {"Name": "a", "LayerType": "gemm", "Inputs": tensors, "Outputs": tensors}
    assert layer_precisions(information(found, ends="I/O Tensors")) == {"fp16": 1}


def test_the_weights_count_too() -> None:
    found = layer("CaskConvolution", "Row major linear FP32", Weights={"Type": "Int8", "Count": 108})
    assert layer_precisions(information(found)) == {"int8": 1}


@pytest.mark.parametrize("kind", ["Reformat", "NoOp", "Shuffle", "Constant", "Cast", "Quantize", "Dequantize"])
def test_layers_that_only_move_data_prove_nothing(kind: str) -> None:
    assert layer_precisions(information(layer(kind, "Half"), layer("CaskConvolution", "Float"))) == {"fp32": 1}


def test_a_fused_part_of_tensorrt_8_hides_its_inside() -> None:
    fused = layer("Myelin", "Row major linear FP32", name="{ForeignNode[blocks.0...head]}")
    assert layer_precisions(information(fused)) == {"hidden": 1}
    seen = layer("Myelin", "Row major linear FP16 format", name="{ForeignNode[blocks.0...head]}")
    assert layer_precisions(information(seen)) == {"fp16": 1}


@pytest.mark.parametrize("content", ['{"Layers": ["conv1", "fc"]}', '{"Layers": []}', "{}"])
def test_names_alone_prove_nothing(content: str) -> None:
    with pytest.raises(MvpError, match="no details of the layers"):
        layer_precisions(content)


@pytest.mark.parametrize(
    ("asked", "layers", "shrink"),
    [
        ("fp32", {"fp32": 3}, 1.0),
        ("fp16", {"fp16": 1, "fp32": 30}, 0.9),
        ("int8", {"int8": 20, "fp16": 3}, 0.3),
        ("fp32", {"hidden": 1}, 1.1),
        ("fp16", {"hidden": 1, "fp32": 1}, 0.55),
    ],
)
def test_the_asked_precision_in_use_is_accepted(asked: str, layers: dict, shrink: float) -> None:
    check_precision(asked, layers, shrink)


@pytest.mark.parametrize(
    ("asked", "layers", "shrink"),
    [
        ("fp16", {"fp32": 30}, 0.5),
        ("int8", {"fp16": 20, "fp32": 3}, 0.3),
        ("fp16", {"hidden": 1}, 0.98),
        ("fp16", {"hidden": 1}, None),
        ("int8", {"hidden": 1}, 0.3),
        ("fp16", {}, 0.5),
    ],
)
def test_another_precision_in_use_is_refused(asked: str, layers: dict, shrink: float | None) -> None:
    with pytest.raises(MvpError, match=f"{asked} was asked for") as caught:
        check_precision(asked, layers, shrink)
    assert caught.value.code == ExitCode.PARITY


def test_control_characters_in_names_are_read() -> None:
    """TensorRT 8.6 on a real GPU leaves them in its JSON as they are."""
    told = information(layer("Convolution", "Half", name="convMARKrelu")).replace("MARK", "\x01\n")
    assert layer_precisions(told) == {"fp16": 1}
