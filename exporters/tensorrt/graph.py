"""An ONNX graph as the check looks at it: who makes a tensor, what is constant, what is quantised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

PASSES = ("Relu", "Clip", "BatchNormalization", "Identity", "QuantizeLinear", "DequantizeLinear")
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")


class Graph:
    """A model whose shapes have been inferred."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import TensorProto, numpy_helper

        graph = model.graph
        self.opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
        self.nodes = list(graph.node)
        self.outputs = {value.name for value in graph.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input} - set(self._constants)
        self._made_by = {name: node for node in self.nodes for name in node.output}
        self._array = numpy_helper.to_array
        self._types = {
            value.name: TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            for value in (*graph.input, *graph.output, *graph.value_info)
        }
        self._types |= {t.name: TensorProto.DataType.Name(t.data_type) for t in graph.initializer}

    def of(self, *operators: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if node.op_type in operators)

    @property
    def weighted(self) -> Iterator[onnx.NodeProto]:
        """Convolutions and matrix products whose second input is a constant, quantised or not."""
        for node in self.of("Conv", "Gemm", "MatMul"):
            if self.constant(self.source(node.input[1])) is not None:
                yield node

    def constant(self, name: str) -> np.ndarray | None:
        """A tensor's value, if the file holds it."""
        if name in self._constants:
            return np.asarray(self._array(self._constants[name]))
        node = self._made_by.get(name)
        if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            return np.asarray(self._array(node.attribute[0].t))
        return None

    def quantized(self, name: str) -> bool:
        node = self._made_by.get(name)
        return node is not None and node.op_type == "DequantizeLinear"

    def source(self, name: str) -> str:
        """The tensor before quantisation and casts."""
        node = self._made_by.get(name)
        if node is None or node.op_type not in ("Cast", "QuantizeLinear", "DequantizeLinear"):
            return name
        return self.source(node.input[0])

    def scale_count(self, name: str) -> int:
        """How many scales a dequantised tensor has."""
        scale = self.constant(self._made_by[name].input[1])
        return 0 if scale is None else scale.size

    def convolved(self, name: str) -> bool:
        """Whether a tensor is a convolution's result, perhaps quantised or activated since."""
        node = self._made_by.get(name)
        if node is None:
            return False
        return node.op_type == "Conv" or (node.op_type in PASSES and self.convolved(node.input[0]))

    def channels(self, node: onnx.NodeProto) -> tuple[int, int]:
        """What a weighted node takes and gives, per group."""
        weight = self.constant(self.source(node.input[1]))
        shape = (1, 1) if weight is None or weight.ndim < 2 else weight.shape
        if node.op_type == "Conv":
            return int(shape[1]), int(shape[0])
        turned = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        return (int(shape[-1]), int(shape[-2])) if turned else (int(shape[-2]), int(shape[-1]))

    def groups(self, node: onnx.NodeProto) -> int:
        return next((int(a.i) for a in node.attribute if a.name == "group"), 1)

    def is_last(self, node: onnx.NodeProto) -> bool:
        """Whether a node gives the logits: their number is the number of classes."""
        names = {node.output[0]}
        for later in self.nodes:
            if later.op_type in ("Add", "Cast", *PASSES) and names & set(later.input):
                names |= set(later.output)
        return bool(names & self.outputs)

    def float_types(self, node: onnx.NodeProto) -> set[str]:
        """The floating-point types among a node's inputs."""
        return {self._types[name] for name in node.input if self._types.get(name) in FLOATS}


def title(node: onnx.NodeProto) -> str:
    return f"{node.op_type} node {node.name!r}"
