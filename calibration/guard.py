"""int8 that keeps its accuracy: the layers that cost most go back to higher precision, or it fails with the numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from mvp_deploy.exporters.errors import AccuracyError
from mvp_deploy.exporters.session import open_session

MAX_RETURNED = 0.5  # share of the layers that may go back; with more, the model would be int8 by name only
ROUNDING = 1e-9  # 0.98 - 0.97 is above 0.01 in floating point
PROBES = 64  # images a layer's cost is measured on

Quantizer = Callable[[Collection[str]], Any]  # the model with these layers in int8: an ONNX graph, or a file's bytes


@dataclass(frozen=True)
class Limit:
    """How much accuracy may be lost, and how to measure that of a model in the runtime it is for.

    accuracy_of: on labelled *training* images, 0..1. Held-out images judge what comes out; they choose nothing.
    images: how many those are.
    """

    accuracy_of: Callable[[Any], float]  # of what the quantizer gives
    images: int
    max_drop: float  # accuracy int8 may lose, 0..1


def allowed_drop(max_drop: float, images: int) -> float:
    """The accuracy (0..1) that may be lost on so many images: one image alone decides only where none may be lost."""
    return max(max_drop, 1 / images) + ROUNDING if max_drop > 0 else max_drop + ROUNDING


@dataclass(frozen=True, eq=False)
class Guarded:
    """An int8 model within its limit."""

    model: Any
    accuracy: float  # on the limit's images, 0..1
    returned: tuple[str, ...]  # layers back in higher precision, the costliest first


def onnx_logits(model: ModelProto, images: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives for images [n, 3, H, W]: float32 [n, classes]."""
    session = open_session(model.SerializeToString())
    logits: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return logits


def guard(
    model: Any,
    layers: Collection[str],
    quantizer: Quantizer,
    images: np.ndarray,
    limit: Limit,
    logits_of: Callable[[Any, np.ndarray], np.ndarray] = onnx_logits,
) -> Guarded:
    """Quantise ``layers``; while that loses more accuracy than the limit, return the costliest, one by one.

    Args:
        model: the float32 model.
        layers: names of what may be quantised.
        quantizer: gives the model with these layers in int8.
        images: calibration images float32 [n, 3, H, W], on which each layer's cost is measured.
        limit: the accuracy that may be lost.
        logits_of: computes a model on images.

    Raises:
        MvpError: (ACCURACY) the limit is not met with half of the layers returned.
    """
    whole = limit.accuracy_of(model)
    least = whole - allowed_drop(limit.max_drop, limit.images)
    quantized = quantizer(layers)
    first = found = limit.accuracy_of(quantized)
    returned: list[str] = []
    for layer in _costliest(model, layers, quantizer, images, logits_of) if not found >= least else ():
        returned.append(layer)
        quantized = quantizer([name for name in layers if name not in returned])
        found = limit.accuracy_of(quantized)
        if found >= least:
            break
    if not found >= least:
        raise AccuracyError(
            f"int8 has {first:.1%} accuracy on {limit.images} training images where float32 has {whole:.1%}, and "
            f"{found:.1%} with the {len(returned)} costliest of {len(layers)} layers left in float; at most "
            f"{limit.max_drop:.1%} may be lost: allow more with --max-drop, or use fp16.",
        )
    return Guarded(quantized, found, tuple(returned))


def _costliest(
    model: Any,
    layers: Collection[str],
    quantizer: Quantizer,
    images: np.ndarray,
    logits_of: Callable[[Any, np.ndarray], np.ndarray],
) -> list[str]:
    """The layers that may be returned, by how far each, alone in int8, moves the logits (mean squared)."""
    probes = images[:: -(-len(images) // PROBES)]
    reference = logits_of(model, probes)
    costs = {name: float(((logits_of(quantizer([name]), probes) - reference) ** 2).mean()) for name in layers}
    return sorted(costs, key=costs.__getitem__, reverse=True)[: int(MAX_RETURNED * len(costs))]
