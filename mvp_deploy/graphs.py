"""One model as ONNX files in other precisions, made from its float32 file when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from calibration.convert import METHOD, Converted, Measured, convert_fp16, convert_int8, measure
from calibration.guard import MAX_DROP, Batches
from calibration.images import CalibrationImages
from exporters.opset import lower_opset, read_opset
from exporters.protocol import Int8Form

QDQ_OPSET = 19  # the first in which Q/DQ can be fp16; for older ones the rest of an int8 graph stays float32


@dataclass(frozen=True)
class Precision:
    """How reduced precisions are made."""

    method: str = METHOD  # of int8's ranges: calibration.thresholds.METHODS
    max_drop: float = MAX_DROP  # accuracy that may be lost against float32
    opset: int | None = None  # newest of the files for TensorRT; None: as they come


@dataclass(eq=False)
class Graphs:
    """The ONNX files of one model. ``held_out`` are the images that int8 must keep its accuracy on."""

    fp32: Path
    images: CalibrationImages | None  # None: only float32 will be asked for
    held_out: Batches
    asked: Precision
    folder: Path  # for files on the way
    _made: dict[tuple[str, Int8Form], Converted] = field(default_factory=dict)
    _measured: Measured | None = None

    def get(self, precision: str, form: Int8Form) -> Converted:
        """The model in 'fp32', 'fp16' or 'int8', as runtimes of this form take it.

        Raises:
            DeployError: (ACCURACY) int8 cannot meet the limit; (INPUT) the model has nothing to quantise, or cannot
                be said in the asked opset.
        """
        key = (precision, form)
        if key not in self._made:
            self._made[key] = self._lowered(self._make(precision, form), form)
        return self._made[key]

    def _make(self, precision: str, form: Int8Form) -> Converted:
        if precision == "fp32":
            return Converted(self.fp32, ())
        out = self.folder / f"{precision}.{form}.onnx"
        if precision == "fp16":
            return convert_fp16(self._ranges(), out)
        typed = form == "tensorrt" and (self.asked.opset or QDQ_OPSET) >= QDQ_OPSET
        return convert_int8(
            self._ranges(),
            out,
            self.held_out,
            target=form,
            rest="fp16" if typed else "fp32",
            method=self.asked.method,
            max_drop=self.asked.max_drop,
        )

    def _ranges(self) -> Measured:
        if self._measured is None:
            if self.images is None:
                raise ValueError("reduced precisions need calibration images")
            self._measured = measure(self.fp32, self.images)
        return self._measured

    def _lowered(self, made: Converted, form: Int8Form) -> Converted:
        opset = self.asked.opset
        if form != "tensorrt" or opset is None or read_opset(made.path) <= opset:
            return made
        out = self.folder / f"{made.path.stem}.opset{opset}.onnx"
        return Converted(lower_opset(made.path, out, opset), made.kept)
