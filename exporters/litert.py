"""LiteRT's flatbuffer (.tflite), which phones and boards run through XNNPACK, from the PyTorch model."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.litert_int8 import Flatbuffer
from mvp_deploy.exporters.protocol import OwnExporter, Source, converting
from mvp_deploy.exporters.silence import quiet


class LiteRtExporter(OwnExporter):
    """fp32 and int8, one image at a time."""

    name = "litert"
    suffix = ".tflite"
    needs = "pip install 'mvp-deploy[litert]'"
    modules = ("litert_torch",)
    precisions = ("fp32", "int8")
    int8_form = "own"
    notes = ("takes one image at a time",)

    def quantizable(self, source: Source, path: Path) -> Flatbuffer:
        return Flatbuffer(path.read_bytes())

    def write(self, source: Source, path: Path) -> None:
        content = source.onnx.read_bytes() if source.precision == "int8" else _converted(source)
        write_bytes(path, content + _labels(source.classes))


def _converted(source: Source) -> bytes:
    import torch

    with TemporaryDirectory() as temporary:
        made = Path(temporary) / "m.tflite"
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            import litert_torch

            with converting("LiteRT"):
                program = litert_torch.convert(source.model.eval(), (torch.zeros(1, *source.image_shape),))
                program.export(str(made))
        return made.read_bytes()


def _labels(classes: tuple[str, ...]) -> bytes:
    """labels.txt in a zip archive at the file's end, where TensorFlow Lite's metadata has it: `unzip` takes it out."""
    if not classes:
        return b""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("labels.txt"), "".join(f"{name}\n" for name in classes))
    return buffer.getvalue()
