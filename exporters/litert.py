"""LiteRT's flatbuffer (.tflite), which phones and boards run through XNNPACK, from the PyTorch model."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from mvp_deploy.exporters.errors import InputError, first_line
from mvp_deploy.exporters.executorch import quiet
from mvp_deploy.exporters.protocol import Artifact, Int8Form, Source, check_precision, require


class LiteRtExporter:
    """fp32, one image at a time."""

    name = "litert"
    suffix = ".tflite"
    needs = "pip install litert-torch"
    precisions: tuple[str, ...] = ("fp32",)
    int8_form: Int8Form = "cpu"

    def check(self) -> None:
        require("litert_torch", self)

    def export(self, source: Source, path: Path) -> Artifact:
        self.check()
        check_precision(self, source.precision)
        import torch

        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            import litert_torch

            try:
                program = litert_torch.convert(source.model.eval(), (torch.zeros(1, *source.image_shape),))
                program.export(str(path))
            except Exception as error:  # its passes and torch's raise what they like
                reason = first_line(error)
                raise InputError(f"LiteRT cannot take this model: {reason}") from error
        return Artifact(path, self.name, source.precision, path.stat().st_size, ("takes one image at a time",))
