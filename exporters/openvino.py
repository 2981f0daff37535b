"""OpenVINO's IR (.xml with the weights beside it in .bin), from an ONNX file."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.exporters.errors import InputError
from mvp_deploy.exporters.protocol import Artifact, Int8Form, Source, check_precision, require


class OpenVinoExporter:
    """fp32, and int8 from Q/DQ. No fp16: CPUs would compute it in another precision than the file says."""

    name = "openvino"
    suffix = ".xml"
    needs = "pip install openvino"
    precisions: tuple[str, ...] = ("fp32", "int8")
    int8_form: Int8Form = "cpu"

    def check(self) -> None:
        require("openvino", self)

    def export(self, source: Source, path: Path) -> Artifact:
        self.check()
        check_precision(self, source.precision)
        import openvino

        try:
            model = openvino.convert_model(source.onnx)
        except Exception as error:  # it raises types of its own, one for each step
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"OpenVINO cannot take this model: {reason}") from error
        openvino.save_model(model, path, compress_to_fp16=False)
        size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
        return Artifact(path, self.name, source.precision, size)
