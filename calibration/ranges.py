"""What values each tensor of an ONNX model takes on real images, measured one image at a time.

One at a time, so that memory does not grow with the number of images, and so that neither a batch size nor the
images' order can change the result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from mvp_deploy.calibration.thresholds import BINS, METHODS
from mvp_deploy.exporters.session import open_session

Ranges = Mapping[str, tuple[float, float]]  # the least and the greatest value of each float tensor


def with_shapes(model: ModelProto) -> ModelProto:
    """The model with the type and shape of every tensor that can be inferred."""
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def float_tensors(model: ModelProto) -> list[str]:
    """The names of all float32 tensors that are computed or given, weights left out."""
    graph = model.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    constants = {tensor.name for tensor in graph.initializer}
    names = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return sorted(names - constants)


def measure_ranges(model: ModelProto, images: Iterable[np.ndarray]) -> Ranges:
    """The least and greatest value of every float tensor over the images, each float32 [3, H, W].

    The extremes are taken inside the graph: no more memory than an ordinary inference.
    """
    names = float_tensors(with_shapes(model))
    probe = _without_outputs(model)
    for index, name in enumerate(names):
        for reduce in ("ReduceMin", "ReduceMax"):
            output = f"range/{index}/{reduce}"
            probe.graph.node.append(helper.make_node(reduce, [name], [output], keepdims=0))
            probe.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for values in _run(probe, images):
        extremes = np.array(values, np.float64).reshape(-1, 2)
        low, high = np.minimum(low, extremes[:, 0]), np.maximum(high, extremes[:, 1])
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def clip_ranges(
    model: ModelProto, ranges: Ranges, tensors: Collection[str], images: Iterable[np.ndarray], method: str
) -> Ranges:
    """``ranges`` with those of ``tensors`` cut to the threshold that ``method`` (of thresholds.METHODS) chooses."""
    names = sorted(tensors)
    probe = _without_outputs(model)
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return clipped(ranges, names, (dict(zip(names, values, strict=True)) for values in _run(probe, images)), method)


def extremes(values: Iterable[Mapping[str, np.ndarray]]) -> Ranges:
    """The least and greatest value of every tensor over the images, given as each image's tensors by name."""
    found: dict[str, tuple[float, float]] = {}
    for tensors in values:
        for name, value in tensors.items():
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return found


def clipped(ranges: Ranges, names: Sequence[str], values: Iterable[Mapping[str, np.ndarray]], method: str) -> Ranges:
    """``ranges`` with those of the tensors ``names`` cut as ``method`` says; ``values`` are those of every image."""
    if method == "minmax":
        return ranges
    reach = {name: max(abs(bound) for bound in ranges[name]) or 1.0 for name in names}
    result = dict(ranges)
    for name, histogram in _histograms(reach, values).items():
        limit = METHODS[method](histogram) * reach[name]
        low, high = ranges[name]
        result[name] = (max(low, -limit), min(high, limit))
    return result


def _histograms(reach: Mapping[str, float], values: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """How often |x| falls into each of ``BINS`` equal bins from 0 to ``reach``; int64 [BINS] per tensor."""
    counts = {name: np.zeros(BINS, np.int64) for name in reach}
    for tensors in values:
        for name in reach:
            index = (np.abs(tensors[name].ravel()) * (BINS / reach[name])).astype(np.int64)
            counts[name] += np.bincount(np.minimum(index, BINS - 1), minlength=BINS)
    return counts


def _without_outputs(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    return copy


def _run(model: ModelProto, images: Iterable[np.ndarray]) -> Iterator[list[Any]]:
    session = open_session(model.SerializeToString())
    name = session.get_inputs()[0].name
    for image in images:
        yield session.run(None, {name: image[None]})
