"""A tiny classifier as ONNX, in each precision, made without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TORCH = {"noop_with_empty_axes": 0}  # its exporter writes the default out


def classifier(path: Path, precision: str = "fp32", *, opset: int = 17, channels: int = 16, seed: int = 0) -> Path:
    """Convolution, ReLU, mean, Gemm: logits [batch, 4] from images [batch, 3, 8, 8].

    fp16: everything between a Cast in and a Cast out. int8: Q/DQ at the convolution, per-channel weights.
    """
    random = np.random.default_rng(seed)
    dtype = np.float16 if precision == "fp16" else np.float32
    weights = {
        "conv.weight": random.normal(size=(channels, 3, 3, 3)).astype(dtype),
        "fc.weight": random.normal(size=(4, channels)).astype(dtype),
        "fc.bias": random.normal(size=4).astype(dtype),
    }
    nodes: list[onnx.NodeProto] = []
    x, weight, last = "input", "conv.weight", "logits"
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", [x], ["half"], name="in", to=TensorProto.FLOAT16))
        x, last = "half", "logits_half"
    if precision == "int8":
        weights |= {
            "scale": np.float32(0.05),
            "zero": np.int8(0),
            "scales": (np.abs(weights[weight]).max((1, 2, 3)) / 127).astype(np.float32),
            "zeros": np.zeros(channels, np.int8),
        }
        nodes += _pair(x, "scale", "zero") + _pair(weight, "scales", "zeros", axis=0)
        x, weight = f"{x}_dq", f"{weight}_dq"
    nodes.append(helper.make_node("Conv", [x, weight], ["features"], name="conv", pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["features"], ["positive"], name="relu"))
    if opset >= 18:
        weights["axes"] = np.array([2, 3])
        nodes.append(helper.make_node("ReduceMean", ["positive", "axes"], ["mean"], name="mean", keepdims=0, **TORCH))
    else:
        nodes.append(helper.make_node("ReduceMean", ["positive"], ["mean"], name="mean", keepdims=0, axes=[2, 3]))
    nodes.append(helper.make_node("Gemm", ["mean", "fc.weight", "fc.bias"], [last], name="fc", transB=1))
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", [last], ["logits"], name="out", to=TensorProto.FLOAT))
    return save(path, nodes, {name: np.asarray(value) for name, value in weights.items()}, opset=opset)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    opset: int = 17,
    image: tuple[int | str, ...] = ("batch", 3, 8, 8),
    logits: tuple[int | str, ...] = ("batch", 4),
) -> Path:
    """A checked ONNX file from input ``input`` to output ``logits``, both float32."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def _pair(name: str, scale: str, zero: str, **attributes: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"], name=f"{name}_Q", **attributes),
        helper.make_node(
            "DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], name=f"{name}_DQ", **attributes
        ),
    ]
