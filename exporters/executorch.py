"""ExecuTorch's program (.pte) for CPUs through XNNPACK, from the PyTorch model."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.exporters.errors import first_line
from mvp_deploy.exporters.executorch_int8 import Program, lowered
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.protocol import OwnExporter, Source, converting
from mvp_deploy.exporters.silence import quiet


class ExecuTorchExporter(OwnExporter):
    """fp32 and int8, one image at a time: phones do no more, and programs for any batch size run slower."""

    name = "executorch"
    suffix = ".pte"
    needs = "pip install 'mvp-deploy[executorch]'"
    modules = ("executorch",)
    precisions = ("fp32", "int8")
    int8_form = "own"
    notes = ("takes one image at a time",)

    def quantizable(self, source: Source, path: Path) -> Program:
        return Program(source, path.read_bytes())

    def write(self, source: Source, path: Path) -> None:
        if source.precision == "int8":
            write_bytes(path, source.onnx.read_bytes())
            return
        with quiet(), converting("ExecuTorch", lambda error: first_line(error.__cause__ or error)):
            write_bytes(path, lowered(source.model.eval(), source.image_shape))
