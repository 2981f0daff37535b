"""Which other files an ONNX file keeps weights in, read without the onnx package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mvp_deploy.exporters.opset import fields

# Fields of ONNX's protobuf messages that lead to tensors, and what they hold
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # of an entry of TensorProto.external_data


def external_files(path: str | os.PathLike[str]) -> set[str]:
    """The files that it names, as it names them: relative to its own folder, if it is well made.

    Raises:
        ValueError: the file is not an ONNX model.
    """
    try:
        return set(_locations(Path(path).read_bytes(), "model"))
    except (IndexError, RecursionError) as error:
        raise ValueError("not an ONNX model") from error


def _locations(message: bytes, kind: str) -> Iterator[str]:
    if kind == "entry":
        entry = dict(fields(message))
        location = entry.get(_VALUE)
        if entry.get(_KEY) == b"location" and isinstance(location, bytes):
            yield location.decode(errors="replace")
        return
    for field, value in fields(message):
        inner = _INSIDE[kind].get(field)
        if inner is not None and isinstance(value, bytes):
            yield from _locations(value, inner)
