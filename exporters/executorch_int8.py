"""int8 for ExecuTorch: the model's graph, its tensors' values, and the program that XNNPACK runs in int8.

XNNPACK's own quantiser says what it can compute in int8; which layers, and in which ranges, the caller decides.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mvp_deploy.exporters.protocol import Source
from mvp_deploy.exporters.silence import quiet

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node

LAYERS = ("conv1d", "conv2d", "linear")
FUSED = ("relu", "relu_", "hardtanh", "hardtanh_")  # computed by the layer before them
LOW, HIGH = -128, 127


@dataclass(eq=False)
class Program:
    """A float32 model for one image, and its program: a `protocol.Quantizable`."""

    source: Source
    content: bytes

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the operators that have weights worth int8, in order."""
        return tuple(node.name for node in self._marked if _kind(node) in LAYERS)

    def inputs_of(self, layers: Collection[str]) -> list[str]:
        """The names of the tensors that these layers multiply by their weights."""
        return sorted({node.all_input_nodes[0].name for node in self._marked if node.name in layers})

    def values(self, images: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """For each image, float32 [3, height, width], the value of every float tensor that is computed or given."""
        import torch

        for image in images:
            found: dict[str, np.ndarray] = {}

            class Recorder(torch.fx.Interpreter):
                def run_node(self, n: Node) -> Any:
                    value = super().run_node(n)
                    if n.op in ("placeholder", "call_function") and isinstance(value, torch.Tensor):
                        found[n.name] = value.numpy().copy()  # noqa: B023  # before the next operator changes it in place
                    return value

            with torch.no_grad():
                Recorder(self._graph).run(torch.from_numpy(image[None]))
            yield {name: value for name, value in found.items() if value.dtype == np.float32}

    def quantized(self, ranges: Mapping[str, tuple[float, float]], layers: Collection[str]) -> bytes:
        """The program with ``layers``, and what lies between them alone, in int8; input and output stay float32.

        Args:
            ranges: the least and the greatest value of each of the tensors that `values` gives.
        """
        import torch

        with quiet():
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            prepared = prepare_pt2e(copy.deepcopy(self._graph), _quantizer(ranges, self._chosen(layers)))
            with torch.no_grad():
                prepared(self._image)  # so that the weights' scales are measured
            return lowered(convert_pt2e(prepared), self.source.image_shape)

    def _chosen(self, layers: Collection[str]) -> set[str]:
        """The layers, and those of the other operators whose tensors are all in int8 anyway."""
        chosen = {node for node in self._marked if node.name in layers or _kind(node) not in LAYERS}
        while True:
            kept = {
                node
                for node in chosen
                if node.name in layers
                or (chosen.issuperset(node.all_input_nodes) and (_kind(node) in FUSED or chosen.issuperset(node.users)))
            }
            if kept == chosen:
                return {node.name for node in kept}
            chosen = kept

    @cached_property
    def _image(self) -> torch.Tensor:
        import torch

        return torch.zeros(1, *self.source.image_shape)

    @cached_property
    def _graph(self) -> GraphModule:
        """Batch norms folded into the layers before them."""
        import torch

        with quiet():
            from torchao.quantization.pt2e.quantize_pt2e import _fuse_conv_bn_

            graph = torch.export.export(self.source.model.eval(), (self._image,)).module(check_guards=False)
            _fuse_conv_bn_(graph)
        return graph

    @cached_property
    def _marked(self) -> list[Node]:
        """The operators that XNNPACK computes in int8."""
        with quiet():
            graph = _quantizer(None, None).annotate(copy.deepcopy(self._graph))
        names = {node.name for node in graph.graph.nodes if "quantization_annotation" in node.meta}
        return [node for node in self._graph.graph.nodes if node.op == "call_function" and node.name in names]


def lowered(model: torch.nn.Module, image_shape: tuple[int, int, int]) -> bytes:
    """ExecuTorch's program of a model for one image, computed by XNNPACK where that can."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(model, (torch.zeros(1, *image_shape),))
    buffer: bytes = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
    return buffer


def _quantizer(ranges: Mapping[str, tuple[float, float]] | None, chosen: Collection[str] | None) -> Any:
    """XNNPACK's quantiser for the operators ``chosen`` (None: all), with these ranges in the place of its own."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    class Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
        def annotate(self, model: GraphModule) -> GraphModule:
            model = super().annotate(model)
            if ranges is not None:
                for node in model.graph.nodes:
                    _set_ranges(node, ranges)
            return model

    quantizer = Quantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    if chosen is not None:
        quantizer.set_filter_function(lambda node: node.op != "call_function" or node.name in chosen)
    return quantizer


def _set_ranges(node: Node, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Put fixed ranges in the place of those that the quantiser would measure, but for weights."""
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    annotation = node.meta.get("quantization_annotation")
    if annotation is None:
        return
    weights = node.all_input_nodes[1:] if _kind(node) in LAYERS else ()
    for given, how in annotation.input_qspec_map.items():
        if isinstance(how, QuantizationSpec) and given not in weights:
            together = node.all_input_nodes if _kind(node) == "cat" else [given]  # what is joined has one scale
            annotation.input_qspec_map[given] = _fixed([ranges[each.name] for each in together])
    if isinstance(annotation.output_qspec, QuantizationSpec):
        users = list(node.users)  # one that cuts values off shares the layer's scale: what it leaves is all that counts
        last = users[0] if len(users) == 1 and _kind(users[0]) in FUSED else node
        annotation.output_qspec = _fixed([ranges[last.name]])


def _fixed(found: Collection[tuple[float, float]]) -> Any:
    import torch
    from torchao.quantization.pt2e.quantizer import FixedQParamsQuantizationSpec

    low, high = min(0.0, *(low for low, _ in found)), max(0.0, *(high for _, high in found))
    scale = max(high - low, 1e-8) / (HIGH - LOW)
    zero = LOW - round(low / scale)
    return FixedQParamsQuantizationSpec(torch.int8, scale, zero, LOW, HIGH, torch.per_tensor_affine)


def _kind(node: Node) -> str:
    """The operator's name without namespace and overload: 'conv2d'."""
    return str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
