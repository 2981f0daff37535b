"""From a float32 ONNX file and calibration images to fp16 and int8 files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto

from mvp_deploy.calibration.fp16 import to_fp16
from mvp_deploy.calibration.guard import Limit, guard
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.calibration.int8 import calibrate, quantize
from mvp_deploy.calibration.layers import Target, int8_layers
from mvp_deploy.calibration.ranges import Ranges, clipped, extremes, measure_ranges
from mvp_deploy.exporters.errors import InputError
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.protocol import Quantizable


@dataclass(frozen=True, eq=False)
class Measured:
    """A float32 model, and what its tensors hold on the calibration images."""

    model: ModelProto
    images: CalibrationImages
    ranges: Ranges


@dataclass(frozen=True)
class Converted:
    """A file in another precision, and the nodes that are not in it: they overflow fp16, or int8 costs too much."""

    path: Path
    kept: tuple[str, ...]


def measure(path: str | os.PathLike[str], images: CalibrationImages) -> Measured:
    """Read a float32 ONNX file with one input [batch, 3, H, W], and measure its tensors' ranges."""
    model = onnx.load(os.fspath(path))
    names = [node.name for node in model.graph.node]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"nodes of {Path(path).name} share a name or have none: export it again.")
    return Measured(model, images, measure_ranges(model, images.images))


def convert_fp16(measured: Measured, out: str | os.PathLike[str]) -> Converted:
    """Write the model in fp16, with float32 input and output."""
    model, kept = to_fp16(measured.model, measured.ranges)
    return Converted(_write(model, out), kept)


def convert_int8(
    measured: Measured,
    out: str | os.PathLike[str],
    limit: Limit,
    *,
    target: Target,
    rest: Literal["fp32", "fp16"] = "fp32",
    method: str,
) -> Converted:
    """Write the model in int8, as ``target`` computes it fast.

    Args:
        limit: the accuracy that may be lost; layers that cost too much are not quantised.
        rest: the precision of what is not int8. fp16 is for TensorRT from 10.12, which takes types from the graph.
        method: how ranges are chosen: 'minmax', 'entropy', 'percentile' or 'mse'.

    Raises:
        MvpError: (INPUT) nothing in the model is worth int8; (ACCURACY) it cannot keep within the limit.
    """
    layers = int8_layers(measured.model, target)
    _refuse_without(layers)
    ranges = calibrate(measured.model, measured.ranges, layers, measured.images.images, method)

    def quantizer(chosen: Collection[str]) -> ModelProto:
        model = quantize(measured.model, ranges, chosen, target)
        return to_fp16(model, measured.ranges)[0] if rest == "fp16" else model

    guarded = guard(measured.model, layers, quantizer, measured.images.images, limit)
    return Converted(_write(guarded.model, out), guarded.returned)


def convert_own_int8(
    whole: Quantizable,
    out: str | os.PathLike[str],
    images: CalibrationImages,
    limit: Limit,
    logits_of: Callable[[bytes, np.ndarray], np.ndarray],
    *,
    method: str,
) -> Converted:
    """Write a runtime's own float32 file in int8, with the ranges and within the limit as `convert_int8` does.

    Args:
        whole: the float32 file.
        out: the int8 file.
        images: what ranges and each layer's cost are measured on.
        limit: the accuracy that may be lost.
        logits_of: computes a file's bytes on images [n, 3, H, W], in the runtime it is for.
        method: how ranges are chosen.

    Raises:
        MvpError: as `convert_int8`.
    """
    _refuse_without(whole.layers)
    inputs = whole.inputs_of(whole.layers)
    ranges = clipped(extremes(whole.values(images.images)), inputs, whole.values(images.images), method)
    guarded = guard(
        whole.content,
        whole.layers,
        lambda chosen: whole.quantized(ranges, chosen),
        images.images,
        limit,
        logits_of,
    )
    write_bytes(out, guarded.model)
    return Converted(Path(out), guarded.returned)


def _refuse_without(layers: Collection[str]) -> None:
    if not layers:
        raise InputError(
            "no layer of this model is wide enough for int8 to be faster: keep more channels, or use fp16."
        )


def _write(model: ModelProto, out: str | os.PathLike[str]) -> Path:
    write_bytes(out, model.SerializeToString(deterministic=True))
    return Path(out)
