"""One model as ONNX files in other precisions, made from its float32 file when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from mvp_deploy.calibration.convert import Converted, Measured, convert_fp16, convert_int8, measure
from mvp_deploy.calibration.guard import Limit
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.export.config import Exports
from mvp_deploy.exporters.opset import lower_opset, read_opset
from mvp_deploy.exporters.protocol import Int8Form

QDQ_OPSET = 19  # the first in which Q/DQ can be fp16; for older ones the rest of an int8 graph stays float32


@dataclass(eq=False)
class Graphs:
    """The ONNX files of one model."""

    fp32: Path
    images: CalibrationImages | None  # None: only float32 will be asked for
    asked: Exports
    folder: Path  # for files on the way

    @property
    def calibration(self) -> CalibrationImages:
        if self.images is None:
            raise ValueError("reduced precisions need calibration images")
        return self.images

    def get(self, precision: str, form: Int8Form, limit: Callable[[], Limit]) -> Converted:
        """The model in 'fp32', 'fp16' or 'int8', as exporters of this form take it; int8 within the limit.

        Raises:
            MvpError: (ACCURACY) int8 cannot meet the limit; (INPUT) the model has nothing to quantise, or cannot
                be said in the asked opset.
        """
        return self._lowered(self._make(precision, form, limit), form)

    def _make(self, precision: str, form: Int8Form, limit: Callable[[], Limit]) -> Converted:
        if precision == "fp32" or form == "own":
            return Converted(self.fp32, ())
        if precision == "fp16":
            return self._fp16
        out = self.folder / f"int8.{form}.onnx"
        typed = form == "tensorrt" and (self.asked.opset or QDQ_OPSET) >= QDQ_OPSET
        rest: Literal["fp16", "fp32"] = "fp16" if typed else "fp32"
        return convert_int8(self._measured, out, limit(), target=form, rest=rest, method=self.asked.int8_method)

    @cached_property
    def _fp16(self) -> Converted:
        return convert_fp16(self._measured, self.folder / "fp16.onnx")

    @cached_property
    def _measured(self) -> Measured:
        return measure(self.fp32, self.calibration)

    def _lowered(self, made: Converted, form: Int8Form) -> Converted:
        opset = self.asked.opset
        if form != "tensorrt" or opset is None or read_opset(made.path) <= opset:
            return made
        out = self.folder / f"{made.path.stem}.opset{opset}.onnx"
        return Converted(lower_opset(made.path, out, opset), made.kept)
