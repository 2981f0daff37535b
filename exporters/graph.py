"""The targets that are ONNX files themselves: for ONNX Runtime, and for TensorRT to build engines from."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.exporters.files import write_bytes
from mvp_deploy.exporters.protocol import PRECISIONS, OwnExporter, Source


class OnnxExporter(OwnExporter):
    """For ONNX Runtime; int8 as its CPU kernels take it."""

    name = "onnx"
    suffix = ".onnx"
    needs = "pip install 'mvp-deploy[train]'"
    precisions = PRECISIONS

    def write(self, source: Source, path: Path) -> None:
        write_bytes(path, source.onnx.read_bytes())


class TensorRTExporter(OnnxExporter):
    """What ``mvp-deploy build`` makes engines from, on the device that will run them; int8 by TensorRT's rules."""

    name = "tensorrt"
    suffix = ".tensorrt.onnx"
    int8_form = "tensorrt"
    notes = ("engines fit one GPU and one TensorRT: build them on the device with `mvp-deploy build BUNDLE`",)
