"""What TensorRT will refuse, misread or run slowly in an ONNX file, found without a GPU. Needs the onnx package."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mvp_deploy.exporters.errors import InputError, first_line
from mvp_deploy.exporters.formats import plain_file, reading_errors
from mvp_deploy.exporters.tensorrt.graph import Graph, title
from mvp_deploy.exporters.tensorrt.releases import Release

ERROR, WARNING = "error", "warning"  # refused or misread; read, but slow or at risk
LARGEST = 2**31 - 1  # bytes of an ONNX file, as of any that protobuf reads
SMALL = 16  # channels under which an int8 convolution costs more than it saves
ALIGNED = {"int8": 32, "float16": 8}  # channels that tensor cores take at once
OVERFLOWS = ("LayerNormalization", "Pow", "Softmax")  # where sums of squares and attention scores pass 65504
SAME_TYPES = ("Add", "Concat", "Conv", "Div", "Gemm", "MatMul", "Max", "Min", "Mul", "Sub", "Sum")
QDQ = "quantise with `mvp-deploy export … --precision int8`, which keeps to TensorRT's rules"


@dataclass(frozen=True)
class Finding:
    """One thing to know, with the nodes it is about and what to do."""

    severity: str
    nodes: tuple[str, ...]  # «Conv node 'conv1'»; empty if it is about the whole file
    reason: str
    cure: str
    releases: tuple[str, ...] = ()  # those it concerns


Rule = Callable[[Graph, Release], Iterator[Finding]]


def check(path: str | os.PathLike[str], releases: Sequence[Release]) -> list[Finding]:
    """Findings for TensorRT releases, errors first; equal ones are one, with all their nodes and releases.

    Raises:
        MvpError: the file is not an ONNX model.
    """
    graph = read(path)
    merged: dict[tuple[str, str, str], Finding] = {}
    for release in releases:
        for rule in RULES:
            for found in rule(graph, release):
                key = (found.severity, found.reason, found.cure)
                known = merged.get(key, replace(found, nodes=()))
                merged[key] = replace(
                    known,
                    nodes=tuple(dict.fromkeys((*known.nodes, *found.nodes))),
                    releases=tuple(dict.fromkeys((*known.releases, release.name))),
                )
    return sorted(merged.values(), key=lambda finding: finding.severity != ERROR)


def read(path: str | os.PathLike[str]) -> Graph:
    """An ONNX file's graph with the types and shapes that can be inferred."""
    import onnx

    with reading_errors(path, f"there is no file {path}: check the path."):
        plain_file(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
    if size > LARGEST:
        raise InputError(f"{path} has more than 2 GiB, which no ONNX file may have: check the path.")
    try:
        model = onnx.load(os.fspath(path))
        if not model.graph.output:  # to protobuf, an empty file is a model, with nothing in it
            raise ValueError("it has no outputs")
        return Graph(onnx.shape_inference.infer_shapes(model))
    except Exception as error:  # whatever protobuf and onnx raise for a file that is not a model
        raise InputError(
            f"{Path(path).name} is not a readable ONNX model ({first_line(error)}): check the path, or export it again."
        ) from error


def _opset(graph: Graph, release: Release) -> Iterator[Finding]:
    if graph.opset > release.max_opset:
        yield Finding(
            ERROR,
            (),
            f"the file uses opset {graph.opset}, newer than the parser reads: before TensorRT 9 it misreads "
            "ReduceMean and others in silence",
            f"export with --opset {release.max_opset} (16 for TensorRT 8.5)",
        )


def _operators(graph: Graph, release: Release) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            reason = f"the operator {node.domain}.{node.op_type} is not ONNX's own"
            yield Finding(ERROR, (title(node),), reason, "export without graph optimisations of another runtime")
        elif node.op_type.startswith("QLinear") or node.op_type.endswith("Integer"):
            yield Finding(ERROR, (title(node),), f"{node.op_type} is a form of int8 TensorRT does not read", QDQ)
        elif node.op_type == "LayerNormalization" and node.op_type not in release.operators:
            reason = "the parser reads no LayerNormalization"
            yield Finding(ERROR, (title(node),), reason, "export with --opset 16, which spells it out")
        elif node.op_type not in release.operators:
            reason = f"{node.op_type} is not among the operators the parser is documented to read"
            yield Finding(ERROR, (title(node),), reason, "use another activation or layer, or a newer TensorRT")


def _quantization(graph: Graph, release: Release) -> Iterator[Finding]:
    """The form of Q/DQ that is accepted: constant scales, int8, zero points of zero, no quantised bias."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        at = (title(node),)
        if graph.constant(node.input[1]) is None:
            yield Finding(ERROR, at, "its scale is computed, not a constant", QDQ)
        zero = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1, np.uint8)
        if zero is None:
            yield Finding(ERROR, at, "its zero point is computed, not a constant", QDQ)
        elif zero.dtype == np.int32:
            yield Finding(ERROR, at, "it dequantises an int32 bias, which TensorRT refuses", QDQ)
        elif zero.dtype != np.int8:
            yield Finding(ERROR, at, f"it quantises to {zero.dtype}; only int8 is accepted", QDQ)
        elif zero.any():
            yield Finding(ERROR, at, "its zero point is not zero; only symmetric int8 is accepted", QDQ)
        if node.output[0] in graph.outputs:
            reason = "the output itself is quantised, which adds a conversion and gains nothing"
            yield Finding(WARNING, at, reason, QDQ)


def _quantized_layers(graph: Graph, release: Release) -> Iterator[Finding]:
    """Layers whose Q/DQ does not become a fast int8 kernel."""
    for node in graph.weighted:
        quantized = graph.quantized(node.input[0]), graph.quantized(node.input[1])
        if not any(quantized):
            continue
        at, (ins, outs) = (title(node),), graph.channels(node)
        if not all(quantized):
            what = "input" if quantized[0] else "weight"
            yield Finding(WARNING, at, f"only its {what} is quantised, so it runs in floating point", QDQ)
        elif node.op_type == "Conv" and min(ins, outs) < SMALL:
            reason = f"it has fewer than {SMALL} channels, where int8 is slower than float16"
            yield Finding(WARNING, at, reason, "leave this convolution in floating point")
        if quantized[1] and graph.scale_count(node.input[1]) == 1 and outs > 1:
            yield Finding(WARNING, at, "its weights have one scale for all channels, which costs accuracy", QDQ)
    for node in graph.of("Add"):
        if all(map(graph.quantized, node.input)) and any(map(graph.convolved, node.input)):
            reason = "both its inputs are quantised, so convolution and addition do not fuse"
            yield Finding(WARNING, (title(node),), reason, "quantise the skip input alone")


def _types(graph: Graph, release: Release) -> Iterator[Finding]:
    for node in graph.nodes:
        kinds = graph.float_types(node)
        if "DOUBLE" in kinds:
            reason = "it computes in float64, which TensorRT turns into float32"
            yield Finding(WARNING, (title(node),), reason, "export the model in float32")
        if len(kinds) > 1 and node.op_type in SAME_TYPES:
            reason = f"its inputs have different types ({', '.join(sorted(kinds))})"
            yield Finding(ERROR, (title(node),), reason, "convert with `mvp-deploy export … --precision fp16`")
        if kinds == {"FLOAT16"} and node.op_type in OVERFLOWS:
            reason = f"{node.op_type} in float16 can overflow"
            cure = "keep it in float32, as `mvp-deploy export … --precision fp16` does where ranges need it"
            yield Finding(WARNING, (title(node),), reason, cure)
        if kinds == {"BFLOAT16"} and node.op_type == "HardSwish":
            yield Finding(ERROR, (title(node),), "HardSwish in bfloat16 is not read", "use float16 or float32")


def _channels(graph: Graph, release: Release) -> Iterator[Finding]:
    """Channel counts that tensor cores pad, so that removed channels save nothing."""
    for node in graph.weighted:
        if node.op_type == "Conv" and graph.groups(node) > 1:
            continue
        kind = "int8" if graph.quantized(node.input[1]) else "float16"
        ins, outs = graph.channels(node)
        given = 0 if graph.source(node.input[0]) in graph.inputs else ins  # an image has three
        taken = 0 if graph.is_last(node) else outs  # classes are as many as there are
        aligned = ALIGNED[kind]
        if given % aligned or taken % aligned:
            yield Finding(
                WARNING,
                (f"{title(node)} ({ins} to {outs} channels)",),
                f"channels that are no multiple of {aligned} are padded by {kind} kernels: removing them gains little",
                f"prune with --round-to {aligned}",
            )


RULES: tuple[Rule, ...] = (_opset, _operators, _quantization, _quantized_layers, _types, _channels)
