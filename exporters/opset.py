"""An ONNX file's opset: reading it without the onnx package, and writing a file again for an older one.

TensorRT 8 reads opsets up to 17 while torch's exporter starts at 18. Newer files do not fail there, they are
misread: since 18 the axes of ReduceMean are an input, and a parser that looks for an attribute averages over
everything, the batch included. onnx's own version converter does not help with such models: it gives invalid
files (it leaves ReduceMean's new attribute in place) or none (it knows no way back for Pad).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvp_deploy.exporters.errors import InputError, ParityError, first_line
from mvp_deploy.exporters.files import atomic_write
from mvp_deploy.exporters.session import open_session

if TYPE_CHECKING:
    import onnx

OWN = ("", "ai.onnx")  # both name ONNX's own operators
IR_VERSION = 8  # what goes with opset 17
# Fields of ONNX's protobuf messages: ModelProto.opset_import, OperatorSetIdProto.domain and .version
_OPSET_IMPORT, _DOMAIN, _VERSION = 8, 1, 2


def read_opset(path: str | os.PathLike[str]) -> int:
    """The version of ONNX's own operators that a file uses.

    Raises:
        MvpError: the file is not an ONNX model.
    """
    try:
        for field, value in fields(Path(path).read_bytes()):
            if field == _OPSET_IMPORT and isinstance(value, bytes):
                entry = dict(fields(value))
                if entry.get(_DOMAIN, b"") in (b"", b"ai.onnx"):
                    return int(entry[_VERSION])
    except (IndexError, KeyError, ValueError):
        pass
    raise InputError(f"{Path(path).name} is not an ONNX model: it states no opset.")


def lower_opset(source: str | os.PathLike[str], out: str | os.PathLike[str], opset: int = 17) -> Path:
    """Write an ONNX file again for an older opset, and make sure that it still computes the same.

    Below 17, LayerNormalization is spelt out in simpler operators: TensorRT 8.5 needs that.

    Args:
        source, out: may be the same file.
        opset: from 13 on; a file that is already as old is written as it is.

    Raises:
        MvpError: (INPUT) a node cannot be said in the older opset; (PARITY) the outcome computes something
            else.
    """
    import onnx

    model = onnx.load(os.fspath(source))
    entry = next(entry for entry in model.opset_import if entry.domain in OWN)
    if entry.version > opset:
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = [new for node in model.graph.node for new in _lowered(node, entry.version, opset, constants)]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
            model.graph.initializer.remove(tensor)  # axes that are attributes now
        entry.version = opset
        model.ir_version = min(model.ir_version, IR_VERSION)
    out = Path(out)
    try:
        with atomic_write(out) as unchecked:
            unchecked.write_bytes(model.SerializeToString(deterministic=True))
            onnx.checker.check_model(os.fspath(unchecked), full_check=True)
            _check_same(Path(source), unchecked)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{out.name} would not be valid in opset {opset}: {error}") from error
    return out


def _lowered(node: onnx.NodeProto, newer: int, older: int, constants: dict[str, Any]) -> list[onnx.NodeProto]:
    """What the older opset calls the same computation."""
    from onnx import defs, helper, numpy_helper

    if node.domain not in OWN:
        return [node]
    if not defs.has(node.op_type, older):
        if node.op_type == "LayerNormalization":
            return _spelt_layer_normalization(node, constants)
        raise InputError(f"{_title(node)} does not exist in opset {older}: choose a newer one.")
    before, now = defs.get_schema(node.op_type, older), defs.get_schema(node.op_type, newer)
    if before.since_version == now.since_version:
        return [node]
    if "axes" in before.attributes and len(node.input) == 2:  # the Reduce family: axes were an attribute
        axes = constants.get(node.input[1])
        if axes is None:
            raise InputError(f"{_title(node)} computes its axes, which opset {older} does not allow.")
        node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(axes).tolist()))
        del node.input[1]
    if len(node.input) > before.max_input:
        raise InputError(f"{_title(node)} uses an input that opset {older} does not have.")
    for attribute in list(node.attribute):
        if attribute.name not in before.attributes:
            if not _implied(node, attribute, now):
                raise InputError(f"{_title(node)} uses {attribute.name}, which opset {older} does not have.")
            node.attribute.remove(attribute)
    return [node]


def _implied(node: onnx.NodeProto, attribute: onnx.AttributeProto, schema: Any) -> bool:
    """Whether a node means the same without the attribute."""
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    if (node.op_type, attribute.name) == ("Split", "num_outputs"):
        return bool(value == len(node.output))  # into equal parts: what the older one does, or it does not run
    default = schema.attributes[attribute.name].default_value
    return bool(default.name) and bool(value == helper.get_attribute_value(default))


def _spelt_layer_normalization(node: onnx.NodeProto, constants: dict[str, Any]) -> list[onnx.NodeProto]:
    """The same over the last axis, as exporters wrote it before the operator existed."""
    from onnx import helper, numpy_helper

    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    scale = constants.get(node.input[1])
    if settings.get("axis", -1) != -1 or len(node.output) != 1 or scale is None:
        raise InputError(f"{_title(node)} is of a form that cannot be spelt out: only its last axis can be.")
    x, name = node.input[0], node.output[0]
    small = numpy_helper.to_array(scale).dtype.type(settings.get("epsilon", 1e-5))
    bias = node.input[2:3]
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("ReduceMean", [x], "mean", {"axes": [-1], "keepdims": 1}),
        ("Sub", [x, f"{name}/mean"], "centred", {}),
        ("Mul", [f"{name}/centred", f"{name}/centred"], "squared", {}),
        ("ReduceMean", [f"{name}/squared"], "variance", {"axes": [-1], "keepdims": 1}),
        ("Add", [f"{name}/variance", f"{name}/epsilon"], "positive", {}),
        ("Sqrt", [f"{name}/positive"], "deviation", {}),
        ("Div", [f"{name}/centred", f"{name}/deviation"], "normal", {}),
        ("Mul", [f"{name}/normal", node.input[1]], "scaled", {}),
    ]
    if bias:
        steps.append(("Add", [f"{name}/scaled", *bias], "shifted", {}))
    nodes = [
        helper.make_node(kind, inputs, [f"{name}/{output}"], name=f"{node.name}/{output}", **attributes)
        for kind, inputs, output, attributes in steps
    ]
    epsilon = numpy_helper.from_array(np.array(small), f"{name}/epsilon")
    nodes.insert(0, helper.make_node("Constant", [], [f"{name}/epsilon"], value=epsilon))
    nodes[-1].output[0] = name
    return nodes


def _check_same(source: Path, lowered: Path) -> None:
    try:
        reference, candidate = open_session(source), open_session(lowered)
        tensor = reference.get_inputs()[0]
        shape = [size if isinstance(size, int) else 2 for size in tensor.shape]
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        wanted, got = (each.run(None, {tensor.name: images})[0] for each in (reference, candidate))
    except Exception as error:  # ONNX Runtime raises types of its own, one for each status
        message = f"written for the older opset, {source.name} does not run: {first_line(error)}"
        raise ParityError(message) from error
    if not np.allclose(wanted, got, rtol=1e-4, atol=1e-5 * float(np.abs(wanted).max())):
        message = f"written for the older opset, {source.name} computes something else: keep the original."
        raise ParityError(message)


def _title(node: onnx.NodeProto) -> str:
    return f"{node.op_type} node {node.name!r}"


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one protobuf message: number and value, messages inside it as bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        result = shift = 0
        while True:
            byte = message[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7

    while position < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("not a protobuf message")
        length = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield key >> 3, message[position : position + length]
        position += length
