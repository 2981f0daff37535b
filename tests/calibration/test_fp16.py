from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mvp_deploy.calibration.fp16 import to_fp16
from mvp_deploy.calibration.int8 import quantize
from mvp_deploy.calibration.layers import int8_layers
from mvp_deploy.calibration.ranges import measure_ranges
from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.exporters.session import open_session

if TYPE_CHECKING:
    from conftest import Trained


def run(model: ModelProto, images: np.ndarray) -> np.ndarray:
    session = open_session(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def float32_weights(model: ModelProto) -> int:
    return sum(numpy_helper.to_array(t).size for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)


def test_half_the_size_the_same_decisions_and_float32_at_both_ends(trained: Trained) -> None:
    before = trained.measured.model
    model, kept = to_fp16(before, trained.measured.ranges)
    assert kept == ()
    assert model.ByteSize() < 0.6 * before.ByteSize()
    assert float32_weights(model) == 0
    got = run(model, trained.images)
    assert got.dtype == np.float32
    check_parity(run(before, trained.images), got, 5e-3)


def test_what_overflows_on_the_images_stays_in_float32_and_is_named() -> None:
    """(1000 x)² is beyond fp16 on images up to 1, and so is the square of 1000 x within a normalisation."""
    images = np.random.default_rng(0).uniform(-1, 1, (8, 3, 4, 4)).astype(np.float32)
    constants = {"thousand": 1e3, "thousandth": 1e-3}
    nodes = [
        helper.make_node("Mul", ["input", "thousand"], ["large"], "scale"),
        helper.make_node("Mul", ["large", "large"], ["huge"], "square"),
        helper.make_node("Mul", ["huge", "thousandth"], ["usual"], "down"),
        helper.make_node("Relu", ["usual"], ["positive"], "relu"),
        helper.make_node("LayerNormalization", ["positive", "gain"], ["normal"], "norm"),
        helper.make_node("Flatten", ["normal"], ["logits"], "flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "overflow",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 48])],
        [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()]
        + [numpy_helper.from_array(np.ones(4, np.float32), "gain")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    converted, kept = to_fp16(model, measure_ranges(model, images))
    assert kept == ("square", "down", "norm")
    check_parity(run(model, images), run(converted, images), 5e-3)
    types = {value.name: value.type.tensor_type.elem_type for value in converted.graph.value_info}
    made = {
        node.name: types[node.output[0]] for node in converted.graph.node if node.name in ("scale", "square", "relu")
    }
    assert made == {"scale": TensorProto.FLOAT16, "square": TensorProto.FLOAT, "relu": TensorProto.FLOAT16}
    square, down = (node for node in converted.graph.node if node.name in ("square", "down"))
    assert down.input[0] == square.output[0]  # not cast to fp16 and back, which would be infinite


def test_the_rest_of_an_int8_model_becomes_fp16_with_its_scales(trained: Trained) -> None:
    before, ranges = trained.measured.model, trained.measured.ranges
    int8 = quantize(before, ranges, int8_layers(before, "tensorrt"), "tensorrt")
    mixed, _ = to_fp16(int8, ranges)
    assert next(opset.version for opset in mixed.opset_import if opset.domain == "") >= 19
    assert float32_weights(mixed) == 0
    constants = {tensor.name: tensor.data_type for tensor in mixed.graph.initializer}
    pairs = [node for node in mixed.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constants[node.input[1]] for node in pairs} == {TensorProto.FLOAT16}
    onnx.checker.check_model(mixed, full_check=True)
    check_parity(run(int8, trained.images), run(mixed, trained.images), 0.05)
