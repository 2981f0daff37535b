"""int8 for LiteRT: what in a float flatbuffer may be quantised, its tensors' values, and the quantised flatbuffer.

The nodes are ai-edge-quantizer's; which layers, and in which ranges, is decided by its caller.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mvp_deploy.exporters.silence import quiet

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Quantised where they stand between quantised operators alone, so that values stay in int8 from layer to layer.
BETWEEN = (
    "ADD", "MUL", "CONCATENATION", "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "PAD", "PADV2", "RESHAPE", "TRANSPOSE",
    "RELU", "HARD_SWISH", "LOGISTIC",
)  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """One of a flatbuffer's operators."""

    name: str  # 'conv_2d 7': its kind, and its place among all operators
    kind: str
    scope: str  # as ai-edge-quantizer calls it
    inputs: tuple[int, ...]  # tensors that are computed or given: constants are left out
    outputs: tuple[int, ...]


@dataclass(eq=False)
class Flatbuffer:
    """A float32 model of one input and one subgraph, as the exporter writes it: a `protocol.Quantizable`."""

    content: bytes

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the operators that have weights worth int8, in order."""
        return tuple(each.name for each in self._operators if each.kind in LAYERS and len(each.inputs) == 1)

    def inputs_of(self, layers: Collection[str]) -> list[str]:
        """The names of the tensors that these layers multiply by their weights."""
        return sorted({self._names[each.inputs[0]] for each in self._operators if each.name in layers})

    def values(self, images: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """For each image, float32 [3, height, width], the value of every float tensor that is computed or given."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        with quiet():  # it warns that to keep all tensors takes memory: here, one image's
            model = Interpreter(
                model_content=self.content,
                num_threads=1,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,  # they hide tensors
            )
        model.allocate_tensors()
        (given,) = model.get_input_details()
        used = sorted({tensor for each in self._operators for tensor in (*each.inputs, *each.outputs)})
        for image in images:
            model.set_tensor(given["index"], image[None])
            model.invoke()
            found = {self._names[tensor]: model.get_tensor(tensor) for tensor in used}
            yield {name: value for name, value in found.items() if value.dtype == np.float32}

    def quantized(self, ranges: Mapping[str, tuple[float, float]], layers: Collection[str]) -> bytes:
        """The flatbuffer with ``layers``, and what lies between them alone, in int8; input and output stay float32.

        Args:
            ranges: the least and the greatest value of each of the tensors that `values` gives.
        """
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer.quantizer import Quantizer

        quantizer = Quantizer(self._with_room_for_biases(ranges, layers))
        for each in self._quantized(layers):
            place = f"^{re.escape(each.scope)}$"
            quantizer.add_static_config(place, qtyping.TFLOperationName(each.kind), 8, 8)
        bounds = {
            name: {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}
            for name, (low, high) in ranges.items()
        }
        with quiet():
            done = quantizer.quantize(bounds, enable_progress_bar=False, enable_progress_report=False)
        return bytes(done.quantized_model)

    def _with_room_for_biases(self, ranges: Mapping[str, tuple[float, float]], layers: Collection[str]) -> bytearray:
        """The file, whose ``layers`` have weights in every channel whose scale can count the channel's bias in int32.

        Training may switch a channel off: weights of all but zero, and a bias that is not. In units of so small a scale
        the bias leaves int32, and ai-edge-quantizer cuts it off, or turns its sign. Such a channel's first weight
        becomes large enough; that adds less than 2**-15 of the bias to what the channel gives.
        """
        from ai_edge_litert.schema_py_generated import Model

        content = bytearray(self.content)
        file, graph = Model.GetRootAs(content), self._graph[0]
        for each, raw in zip(self._operators, graph.operators, strict=True):
            if each.name not in layers or len(raw.inputs) < 3 or raw.inputs[2] < 0:
                continue
            weights, bias = (self._values_of(int(tensor), file) for tensor in raw.inputs[1:3])
            rows = weights.T if each.kind == "DEPTHWISE_CONV_2D" else weights  # its channels are the last axis
            rows = rows.reshape(len(bias), -1)
            low, high = ranges[self._names[each.inputs[0]]]
            unit = max(high, 0.0) - min(low, 0.0)  # 255 times the input's scale
            least = np.abs(bias) * 127 * 255 / (2**30 * max(unit, 1e-12))
            weak = np.abs(rows).max(1) < least
            first = (0,) * (weights.ndim - 1)
            place = (*first, weak) if each.kind == "DEPTHWISE_CONV_2D" else (weak, *first)
            weights[place] = least[weak]
        return content

    @staticmethod
    def _values_of(tensor: int, file: Any) -> np.ndarray:
        """A constant's values, float32 in its shape: a view of the file."""
        found = file.Subgraphs(0).Tensors(tensor)
        data = file.Buffers(found.Buffer()).DataAsNumpy()
        values: np.ndarray = data.view(np.float32).reshape(found.ShapeAsNumpy())
        return values

    def _quantized(self, layers: Collection[str]) -> list[Operator]:
        """The layers, and those of the operators between whose inputs and outputs are all in int8."""
        chosen = [each for each in self._operators if each.name in layers or each.kind in BETWEEN]
        while True:
            made = {tensor for each in chosen for tensor in each.outputs}
            float_too = {tensor for each in self._operators if each not in chosen for tensor in each.inputs}
            left_float = float_too | self._outputs
            kept = [
                each
                for each in chosen
                if each.name in layers or (made.issuperset(each.inputs) and left_float.isdisjoint(each.outputs))
            ]
            if kept == chosen:
                return kept
            chosen = kept

    @cached_property
    def _graph(self) -> tuple[Any, list[int]]:
        """Its subgraph, and each operator code's number."""
        from ai_edge_quantizer.utils.tfl_flatbuffer_utils import read_model

        model = read_model(bytearray(self.content))
        (graph,) = model.subgraphs
        return graph, [code.builtinCode for code in model.operatorCodes]

    @cached_property
    def _names(self) -> list[str]:
        return [tensor.name.decode() for tensor in self._graph[0].tensors]

    @cached_property
    def _outputs(self) -> set[int]:
        return set(map(int, self._graph[0].outputs))

    @cached_property
    def _operators(self) -> list[Operator]:
        from ai_edge_litert.schema_py_generated import BuiltinOperator
        from ai_edge_quantizer.utils.tfl_flatbuffer_utils import get_op_scope

        graph, codes = self._graph
        kinds = {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}
        computed = {int(tensor) for each in graph.operators for tensor in each.outputs} | set(map(int, graph.inputs))
        found = []
        for place, each in enumerate(graph.operators):
            kind = kinds[codes[each.opcodeIndex]]
            found.append(
                Operator(
                    f"{kind.lower()} {place}",
                    kind,
                    get_op_scope(each, graph.tensors),
                    tuple(int(tensor) for tensor in each.inputs if int(tensor) in computed),
                    tuple(map(int, each.outputs)),
                )
            )
        return found
