"""fp16 ONNX models with float32 inputs and outputs; what would overflow stays in float32, by measured ranges."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from mvp_deploy.calibration.ranges import Ranges

LIMIT = 65504 / 2  # fp16's greatest value, with room for images larger than those measured
QDQ_OPSET = 19  # the first in which QuantizeLinear takes fp16


def overflowing(model: ModelProto, ranges: Ranges) -> tuple[str, ...]:
    """The nodes that must stay in float32: a value they take or give, or a square they sum, is beyond fp16."""
    reach = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    reach |= {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    return tuple(node.name for node in model.graph.node if _greatest(node, reach) > LIMIT)


def to_fp16(model: ModelProto, ranges: Ranges) -> tuple[ModelProto, tuple[str, ...]]:
    """A new model in fp16, and the names of the nodes it keeps in float32.

    Args:
        model: float32, or with layers in int8, of which the rest becomes fp16.
        ranges: of every float tensor of the float32 model, from `measure_ranges`.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = overflowing(model, ranges)
    copy = ModelProto()
    copy.CopyFrom(model)
    if any(node.op_type == "QuantizeLinear" for node in copy.graph.node):
        for opset in copy.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, QDQ_OPSET)  # 19 only adds types and attributes to 18
    converted = convert_float_to_float16(copy, keep_io_types=True, node_block_list=list(kept))
    _join(converted)
    ONNXModel(converted).topological_sort()  # the converter appends its casts
    result: ModelProto = onnx.shape_inference.infer_shapes(converted)
    onnx.checker.check_model(result)
    return result, kept


def _join(model: ModelProto) -> None:
    """Let neighbours that stay in float32 pass their values on as they are: the converter casts them there and back."""
    graph = model.graph
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    whole = {
        name: casts[node.input[0]].input[0]
        for name, node in casts.items()
        if node.name.endswith("_cast_to_fp32_node")
        and node.input[0] in casts
        and casts[node.input[0]].name.endswith("_cast_to_fp16_node")
    }
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = whole.get(name, name)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in casts.values() if node.output[0] not in used]:
        graph.node.remove(node)
    made = {name for node in graph.node for name in node.output}
    for value in [value for value in graph.value_info if value.name not in made]:
        graph.value_info.remove(value)


def _greatest(node: NodeProto, reach: dict[str, float]) -> float:
    greatest = max((reach.get(name, 0.0) for name in [*node.input, *node.output]), default=0.0)
    if node.op_type == "LayerNormalization":  # it squares its input
        greatest = max(greatest, reach.get(node.input[0], 0.0) ** 2)
    return greatest
