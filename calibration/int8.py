"""Static int8 quantisation of an ONNX model, in the form its runtime computes fast.

The ranges are measured here (streaming, unlike ONNX Runtime's calibrators, which hold every activation of every
image); the nodes are ONNX Runtime's quantiser's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from mvp_deploy.calibration.layers import Target
from mvp_deploy.calibration.ranges import Ranges, clip_ranges, with_shapes

# ONNX Runtime's CPU kernels take uint8 activations with a zero point (a ReLU then costs nothing), and a convolution
# only with its bias in int32 and its output quantised.
_CPU = {
    "ActivationSymmetric": False,
    "WeightSymmetric": True,
    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
}
# TensorRT takes int8 with zero point 0 alone, weights with a Q/DQ pair of their own, and biases in float; it fuses what
# follows a convolution, so outputs are left alone.
_TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": False,
    "QDQDisableWeightAdjustForInt32Bias": True,
    "OpTypesToExcludeOutputQuantization": ["Conv", "MatMul", "Gemm"],
}


def quantize(model: ModelProto, ranges: Ranges, layers: Collection[str], target: Target) -> ModelProto:
    """A new model that computes ``layers`` (names of nodes) in int8, as Q/DQ; inputs and outputs stay float32.

    Args:
        ranges: of every tensor, from `calibrate`.
        target: 'cpu' for ONNX Runtime on CPUs, 'tensorrt' for TensorRT's rules, which OpenVINO takes as well.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    cpu = target == "cpu"
    quantizer = QDQQuantizer(
        with_shapes(model),
        True,  # weights per channel
        False,  # all eight bits
        QuantType.QInt8,
        QuantType.QUInt8 if cpu else QuantType.QInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        [*layers, *(_clamps(model) if cpu else [])],
        [],
        ["Conv", "Gemm", "MatMul", "Relu", "Clip"],
        dict(_CPU if cpu else _TENSORRT),
    )
    quantizer.quantize_model()
    if not cpu:
        _quantize_skips(quantizer.model.model, layers, ranges)
    quantizer.model.topological_sort()
    result: ModelProto = quantizer.model.model
    del result.metadata_props[:]  # the quantiser adds notes of its own
    result.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(result)
    return result


def calibrate(
    model: ModelProto, ranges: Ranges, layers: Collection[str], images: Iterable[np.ndarray], method: str
) -> Ranges:
    """``ranges`` with the inputs of ``layers`` clipped by ``method``: 'minmax', 'entropy', 'percentile' or 'mse'."""
    inputs = {node.input[0] for node in model.graph.node if node.name in layers}
    return clip_ranges(model, ranges, inputs, images, method)


def _clamps(model: ModelProto) -> list[str]:
    """Nodes that the limits of the quantised values make needless."""
    return [node.name for node in model.graph.node if node.op_type in ("Relu", "Clip")]


def _quantize_skips(model: ModelProto, layers: Collection[str], ranges: Ranges) -> None:
    """Quantise the input of each residual addition that is not the convolution's, so that TensorRT adds within it."""
    graph = model.graph
    order = {output: index for index, node in enumerate(graph.node) for output in node.output}
    producers = {output: node for node in graph.node for output in node.output}
    users: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    for node in [node for node in graph.node if node.op_type == "Add"]:
        branches = [
            name
            for name in node.input
            if users[name] == 1
            and name in producers
            and producers[name].op_type == "Conv"
            and producers[name].name in layers
        ]
        if branches:
            main = max(branches, key=order.__getitem__)  # with two, the later one: the other is the shortcut's
            index = 1 - list(node.input).index(main)
            if node.input[index] in ranges:
                node.input[index] = _dequantized(model, node.input[index], ranges)


def _dequantized(model: ModelProto, tensor: str, ranges: Ranges) -> str:
    """The name of ``tensor`` after Q and DQ; the pair that is there already, or a new one."""
    graph = model.graph
    pairs: Mapping[str, Any] = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    if tensor in pairs:
        quantized = pairs[tensor].output[0]
        return next(node.output[0] for node in graph.node if node.input[0] == quantized)
    names = [f"{tensor}_{part}" for part in ("scale", "zero_point", "quantized", "dequantized")]
    scale, zero, quantized, result = names
    reach = max(map(abs, ranges[tensor])) or 1.0
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(reach / 127), scale))
    graph.initializer.append(onnx.numpy_helper.from_array(np.int8(0), zero))
    nodes: list[NodeProto] = [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [quantized], f"{tensor}_quantize"),
        helper.make_node("DequantizeLinear", [quantized, scale, zero], [result], f"{tensor}_dequantize"),
    ]
    graph.node.extend(nodes)
    return result
