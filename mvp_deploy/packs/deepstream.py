"""NVIDIA DeepStream's nvinfer: its configuration, labels, and the ONNX file that TensorRT builds from.

nvinfer gives the model ``net-scale-factor * (pixel - offset)``: one factor for all channels, an offset for each. A
normalisation whose standard deviations differ needs a factor for each channel; the rest of it then goes into the graph,
as does the softmax, since nvinfer compares the outputs with a threshold above zero.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvp_deploy.exporters.parity import check_parity
from mvp_deploy.packs.subject import Subject, render
from mvp_deploy.tasks import Preprocessing

MODES = {"fp32": 0, "int8": 1, "fp16": 2}  # nvinfer's network-mode
BATCH = 16
OUTPUT = "probabilities"


def fill(subject: Subject, folder: Path) -> list[str]:
    """Write config_infer.txt, labels.txt and model.onnx.

    Raises:
        MvpError: (PARITY) the changed graph does not give the bundle's logits on its samples.
    """
    how = subject.preprocessing
    factor, offsets, rest = normalisation(how)
    _check(changed(subject.source, rest, ("logits",)), subject, factor, offsets)
    (folder / "model.onnx").write_bytes(changed(subject.source, rest))
    names = [name.replace(";", ",") for name in subject.bundle.classes]  # nvinfer parts labels at each ;
    (folder / "labels.txt").write_text(";".join(names) + "\n", encoding="utf-8")
    notes = _notes(how)
    if names != list(subject.bundle.classes):
        notes.append("a ; in class names is written as a comma, for nvinfer parts labels there")
    config = render(
        "config_infer.txt.j2",
        factor=f"{factor:.10g}",
        offsets=";".join(f"{value:.7g}" for value in offsets),
        mode=MODES[subject.file.precision],
        shape=";".join(map(str, how.input_size)),
        batch=BATCH,
        border=int(how.crop_mode == "border"),
        inside=rest is not None,
        output=OUTPUT,
        notes=notes,
    )
    (folder / "config_infer.txt").write_text(config, encoding="utf-8")
    return notes


def normalisation(how: Preprocessing) -> tuple[float, tuple[float, ...], tuple[float, ...] | None]:
    """Nvinfer's factor and offsets, and what each channel is then still to be multiplied by; None where nothing is."""
    offsets = tuple(255 * value for value in how.mean)
    if len(set(how.std)) == 1:
        return 1 / (255 * how.std[0]), offsets, None
    return 1 / 255, offsets, tuple(1 / value for value in how.std)


def changed(source: Path, rest: tuple[float, ...] | None, outputs: tuple[str, ...] = (OUTPUT,)) -> bytes:
    """The ONNX file with a softmax behind it and, where given, a factor for each channel in front, serialised.

    Args:
        outputs: what it gives: probabilities, logits.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    (given,), (found,) = graph.input, graph.output
    nodes = list(graph.node)
    if rest is not None:
        inside = f"{given.name}_normalised"
        for node in nodes:
            node.input[:] = [inside if name == given.name else name for name in node.input]
        factors = np.array(rest, np.float32).reshape(1, 3, 1, 1)
        graph.initializer.append(numpy_helper.from_array(factors, "channel_factors"))
        nodes.insert(0, helper.make_node("Mul", [given.name, "channel_factors"], [inside], "channel_mul"))
    nodes.append(helper.make_node("Softmax", [found.name], [OUTPUT], "softmax", axis=1))
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    batch = given.type.tensor_type.shape.dim[0].dim_param or "batch"
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, None]) for name in outputs)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _check(model: bytes, subject: Subject, factor: float, offsets: tuple[float, ...]) -> None:
    """Compare with the bundle's logits, on its samples as nvinfer gives them."""
    import onnxruntime

    how, samples = subject.preprocessing, subject.bundle.samples
    mean, std, offset = (np.array(values, np.float32).reshape(3, 1, 1) for values in (how.mean, how.std, offsets))
    pixels = (samples["images"] * std + mean) * 255
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = np.float32(factor) * (pixels - offset)
    (found,) = session.run(None, {session.get_inputs()[0].name: given})
    check_parity(samples[subject.file.model], found, subject.file.tolerance, exact=subject.file.precision == "fp32")


def _notes(how: Preprocessing) -> list[str]:
    """What nvinfer does otherwise than the model was trained with."""
    notes = []
    if how.crop_mode == "center" or how.crop_pct != 1:
        notes.append(
            f"nvinfer resizes the whole frame or object to {how.input_size[2]} x {how.input_size[1]}; the model was "
            f"trained on images resized to 1/{how.crop_pct:g} of that and cropped ({how.crop_mode}): nvinfer cannot "
            "express that, and accuracy may differ. Cut the centre out before, with nvvideoconvert's src-crop"
        )
    notes.append(
        f"nvinfer's scaling is not antialiased as the model's {how.interpolation} is: measure the accuracy there"
    )
    return notes
