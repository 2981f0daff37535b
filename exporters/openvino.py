"""OpenVINO's IR (.xml with the weights beside it in .bin), from an ONNX file."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.exporters import openvino_import
from mvp_deploy.exporters.protocol import OwnExporter, Source, converting


class OpenVinoExporter(OwnExporter):
    """fp32, and int8 from Q/DQ. No fp16: CPUs would compute it in another precision than the file says."""

    name = "openvino"
    suffix = ".xml"
    needs = "pip install 'mvp-deploy[openvino]'"
    modules = ("openvino",)
    precisions = ("fp32", "int8")

    def write(self, source: Source, path: Path) -> None:
        openvino = openvino_import.openvino()
        with converting("OpenVINO", lambda error: str(error).strip().splitlines()[-1]):
            model = openvino.convert_model(source.onnx)
        openvino.save_model(model, path, compress_to_fp16=False)
