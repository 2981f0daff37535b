"""MNN's file (.mnn), for phones and boards, from an ONNX file."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mvp_deploy.exporters.errors import InputError
from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.protocol import PRECISIONS, Artifact, OwnExporter, Source, converting

# The bare converter, which sends nothing. The command `mnnconvert` and everything in `MNN.tools` import a logger that
# installs aliyun-log-python-sdk and sends each call's arguments with an identifier of the machine to MNN's makers.
CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
WEIGHTS = {"fp32": [], "fp16": ["--fp16"], "int8": ["--weightQuantBits", "8", "--hqq"]}  # hqq: half the error
IDENTIFIER = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class MnnExporter(OwnExporter):
    """fp32, and the weights in fp16 or int8 for files of a half or a quarter of that; computed is float32."""

    name = "mnn"
    suffix = ".mnn"
    needs = "pip install 'mvp-deploy[mnn]'"
    modules = ("MNN",)
    precisions = PRECISIONS
    int8_form = "own"

    def export(self, source: Source, path: Path) -> Artifact:
        made = super().export(source, path)
        if source.precision == "fp32":
            return made
        return replace(made, notes=(f"only the weights are {source.precision}, and float32 is computed",))

    def write(self, source: Source, path: Path) -> None:
        with TemporaryDirectory() as temporary:
            made = _converted(source, Path(temporary))
        with converting("MNN"):
            made = sealed(made)
        write_bytes(path, made)


def _converted(source: Source, folder: Path) -> bytes:
    """What MNN's converter makes, in a process of its own: it writes to the current folder, and prints why it fails."""
    made = folder / "m.mnn"
    files = ["--modelFile", str(source.onnx.resolve()), "--MNNModel", str(made), "--bizCode", "mvp-deploy"]
    exact = ["--useGeluApproximation", "0"]  # else off by 1e-4 of a ViT's logits
    call = [sys.executable, "-c", CONVERT, "-f", "ONNX", *files, *exact, *WEIGHTS[source.precision]]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    if lacking := re.search(r"These Op Not Support: *(.+?) *$", said, re.MULTILINE):
        raise InputError(f"MNN cannot take this model: it has no {lacking[1].replace('ONNX::', '')}.")
    if done.returncode or not made.is_file():  # it ends with 0 where it fails
        last = (said.strip().splitlines() or [""])[-1]
        raise InputError(f"MNN cannot take this model: its converter ends with code {done.returncode}: {last}")
    return made.read_bytes()


def sealed(content: bytes) -> bytes:
    """An MNN file with a checksum of the rest in the place of the identifier that the converter draws.

    Equal models get equal files, and damage is found before MNN reads them, which may crash on it.

    Raises:
        ValueError: there is no identifier.
    """
    drawn = IDENTIFIER.search(content)
    if drawn is None:
        raise ValueError("the file has no identifier")
    before, after = content[: drawn.start()], content[drawn.end() :]
    return before + str(uuid.UUID(hashlib.sha256(before + after).hexdigest()[:32])).encode() + after
