"""ncnn's parameters (.ncnn.param, text) with the weights beside them (.ncnn.bin), for phones and boards."""

from __future__ import annotations

import re
import subprocess
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from mvp_deploy.exporters.errors import InputError
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.protocol import OwnExporter, Source, converting

INPUT = re.compile(r"^(Input +in0 +0 1 in0)\b.*$", re.MULTILINE)


class NcnnExporter(OwnExporter):
    """fp32, one image at a time: ncnn has no batches."""

    name = "ncnn"
    suffix = ".ncnn.param"
    needs = "pip install 'mvp-deploy[ncnn]'"
    modules = ("pnnx", "ncnn")
    notes = ("takes one image at a time",)

    def write(self, source: Source, path: Path) -> None:
        with TemporaryDirectory() as temporary:
            made = _convert(source, Path(temporary))
            _, height, width = source.image_shape
            # The input's size is optional in ncnn; written down, the file alone says which images it takes.
            sized = INPUT.sub(rf"\1 0={width} 1={height} 2={source.image_shape[0]}", made.read_text(encoding="utf-8"))
            write_bytes(path, sized.encode())
            write_bytes(path.with_suffix(".bin"), made.with_suffix(".bin").read_bytes())


def _convert(source: Source, folder: Path) -> Path:
    """Trace the model, have pnnx translate it, and return the parameters' file; the weights lie beside it."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit's own deprecation, and constants of the traced shape
        import pnnx

        with converting("ncnn"), torch.no_grad():
            torch.jit.trace(source.model.eval(), torch.zeros(1, *source.image_shape)).save(str(folder / "model.pt"))
    shape = ",".join(map(str, (1, *source.image_shape)))
    call = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{shape}]f32", "fp16=0"]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    made = folder / "model.ncnn.param"
    if ignored := dict.fromkeys(re.findall(r"^ignore (\S+)", done.stdout + done.stderr, re.MULTILINE)):
        raise InputError(f"ncnn cannot take this model: it has no {', '.join(list(ignored)[:3])}.")
    if done.returncode or not made.is_file():
        raise InputError(f"ncnn cannot take this model: pnnx ends with code {done.returncode}.")
    return made
