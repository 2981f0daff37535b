"""What precision an engine's layers really run in, as TensorRT's engine inspector tells.

A builder may ignore what it was asked: tools that set flags get float32 engines from TensorRT 11, in silence.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mvp_deploy.exporters.errors import ParityError

# Names that the inspector's versions use, narrowest first: a layer counts as the narrowest it computes on.
HALVED = 0.75  # engine bytes per byte of the float32 file: weights in fp16 take half, in fp32 all
PRECISIONS = {
    "int8": ("int8",),
    "fp16": ("fp16", "half"),
    "bf16": ("bf16", "bfloat16"),
    "fp32": ("fp32", "float"),
}
MOVES_DATA = (
    "reformat", "noop", "shuffle", "reshape", "constant", "cast", "quantize", "shape", "copy", "slice",
)  # fmt: skip
TYPE_KEYS = ("Format/Datatype", "Datatype", "DataType")  # one field before 11, then two
HIDDEN = (
    "myelin",
    "foreignnode",
)  # before 10 a fused part of the graph is one layer that shows only its ends


def layer_precisions(information: str) -> dict[str, int]:
    """Count an engine's computing layers by the narrowest type among their inputs and weights.

    Args:
        information: the inspector's JSON of an engine built with detailed profiling verbosity.

    Returns:
        layers by 'int8', 'fp16', 'bf16', 'fp32', and 'hidden' for fused parts whose inside is not shown.

    Raises:
        MvpError: (PARITY) the JSON has no layer details.
    """
    layers = json.loads(information, strict=False).get("Layers", [])  # 8.6 leaves control characters in strings
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise ParityError(
            "the engine inspector shows no details of the layers, so their precision is unknown: build it again.",
        )
    return dict(Counter(filter(None, map(_precision, layers))))


def check_precision(asked: str, layers: Mapping[str, int], shrink: float | None = None) -> None:
    """Refuse an engine without a layer in the precision that was asked for.

    Args:
        layers: from ``layer_precisions``.
        shrink: bytes of the engine per byte of its float32 ONNX file. Where layers are hidden, weights stored
            in half the space are the evidence that is left.

    Raises:
        MvpError: (PARITY) the asked precision is not in use.
    """
    if layers.get(asked):
        return
    if layers.get("hidden") and (asked == "fp32" or (asked == "fp16" and shrink is not None and shrink < HALVED)):
        return
    seen = ", ".join(f"{count} {name}" for name, count in sorted(layers.items())) or "none that compute"
    raise ParityError(
        f"{asked} was asked for, and TensorRT built an engine that does not use it (layers: {seen}): where "
        "it takes types from the graph, the ONNX file must be of that precision; `mvp-deploy check` says "
        "what is in the way.",
    )


def _precision(layer: Mapping[str, Any]) -> str | None:
    kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
    name = str(layer.get("Name", "")).lower()
    if any(word in kind for word in MOVES_DATA):
        return None
    types = [_narrowest(text) for text in _types(layer)]
    known = [name for name in PRECISIONS if name in types]
    if any(word in kind or word in name for word in HIDDEN) and known in ([], ["fp32"]):
        return "hidden"
    return known[0] if known else None


def _types(layer: Mapping[str, Any]) -> Iterator[str]:
    """The type descriptions of what a layer computes on, such as «Half» or «Row major linear FP16 format»."""
    for tensor in layer.get("Inputs", []):
        if isinstance(tensor, dict):
            yield " ".join(str(tensor[key]) for key in TYPE_KEYS if key in tensor)
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        yield str(weights.get("Type", ""))


def _narrowest(text: str) -> str | None:
    words = text.lower()
    return next((name for name, signs in PRECISIONS.items() if any(sign in words for sign in signs)), None)
