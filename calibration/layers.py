"""Which layers of an ONNX model are worth computing in int8, for each kind of runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from onnx import ModelProto, NodeProto, ValueInfoProto

from mvp_deploy.calibration.ranges import with_shapes

Target = Literal["cpu", "tensorrt"]
NARROW = 16  # channels below which TensorRT's int8 kernels are slower than its others

Shapes = Mapping[str, tuple[int | str, ...]]


def int8_layers(model: ModelProto, target: Target) -> tuple[str, ...]:
    """The names of the nodes to quantise, in the graph's order.

    Only convolutions and products with constant weights: attention's own products, normalisations and activations
    lose more than they gain. For TensorRT also without convolutions of under 16 channels (which depthwise ones
    always are) and without matrix-vector products (the classifier, squeeze-and-excite), which are slower in int8.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = _shapes(model)
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights:
            continue
        weight = weights[node.input[1]]
        if target == "cpu" or (min(weight[:2]) >= NARROW and _positions(node, shapes) > 1):
            found.append(node.name)
    return tuple(found)


def _positions(node: NodeProto, shapes: Shapes) -> int:
    """For how many pixels or tokens of one image the node multiplies by its weights; 1 if it is not known."""
    shape = shapes.get(node.output[0], ())
    inner = shape[2:] if node.op_type == "Conv" else shape[1:-1]
    return math.prod(size for size in inner if isinstance(size, int))


def _shapes(model: ModelProto) -> Shapes:
    graph = with_shapes(model).graph
    return {value.name: _shape(value) for value in [*graph.value_info, *graph.output]}


def _shape(value: ValueInfoProto) -> tuple[int | str, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)
