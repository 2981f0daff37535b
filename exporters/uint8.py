"""An ONNX file with normalisation and softmax inside: bytes in, probabilities out; only resizing is left outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mvp_deploy.exporters.errors import ParityError
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.graph import OnnxExporter
from mvp_deploy.exporters.onnx import OUTPUT
from mvp_deploy.exporters.protocol import Source

IMAGES, PROBABILITIES, NORMALISATION = "images", "probabilities", "normalisation"
CLOSE = 1e-5  # of a probability: ONNX Runtime's softmax against numpy's, both in float32


class Uint8Exporter(OnnxExporter):
    """images uint8 [batch, height, width, 3] (RGB) in; probabilities and logits float32 [batch, classes] out."""

    name = "onnx-uint8"
    suffix = ".uint8.onnx"
    notes = ("takes bytes, resized and cropped: normalisation and softmax are inside",)

    def write(self, source: Source, path: Path) -> None:
        """Write the file; the caller compares its logits with PyTorch's, here softmax is compared with its formula."""
        model = with_preprocessing(source)
        _check_softmax(model, source.image_shape)
        write_bytes(path, model)


def with_preprocessing(source: Source) -> bytes:
    """The source's ONNX file behind ``(images / 255 - mean) / std`` and in front of a softmax, serialised."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source.onnx)
    graph = model.graph
    (normalised,) = graph.input  # float32 [batch, 3, H, W]
    channels, height, width = source.image_shape
    batch = normalised.type.tensor_type.shape.dim[0].dim_param or "batch"
    mean, std = (np.array(values, np.float32) for values in (source.mean, source.std))
    graph.initializer.extend(
        [numpy_helper.from_array(1 / (255 * std), "pixel_scale"), numpy_helper.from_array(-mean / std, "pixel_shift")]
    )
    before = [
        helper.make_node("Cast", [IMAGES], ["pixel_float"], "pixel_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixel_float", "pixel_scale"], ["pixel_scaled"], "pixel_mul"),
        helper.make_node("Add", ["pixel_scaled", "pixel_shift"], ["pixel_normal"], "pixel_add"),
        helper.make_node("Transpose", ["pixel_normal"], [normalised.name], "pixel_order", perm=(0, 3, 1, 2)),
    ]
    after = helper.make_node("Softmax", [OUTPUT], [PROBABILITIES], "softmax", axis=1)
    nodes = [*before, *graph.node, after]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, [batch, height, width, channels]))
    graph.output.insert(0, helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [batch, None]))
    values = {"mean": list(source.mean), "std": list(source.std)}
    model.metadata_props.add(key=NORMALISATION, value=json.dumps(values, sort_keys=True))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _check_softmax(model: bytes, image_shape: tuple[int, int, int]) -> None:
    import onnxruntime

    channels, height, width = image_shape
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), np.uint8)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    probabilities, logits = session.run([PROBABILITIES, OUTPUT], {IMAGES: images})
    powers = np.exp(logits - logits.max(1, keepdims=True))
    off = np.abs(powers / powers.sum(1, keepdims=True) - probabilities).max()
    if not off <= CLOSE:
        raise ParityError(f"the softmax in the graph is off by {off:.1e}, where {CLOSE:.0e} is allowed.")
