"""What to export: plain values, known without torch and onnx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from mvp_deploy.base.bounds import OPSET, SHARE
from mvp_deploy.base.formats import Rule, Within
from mvp_deploy.base.settings import Settings, setting
from mvp_deploy.exporters.protocol import Precision, exporters


class Installed(Rule):
    """Names of targets of this installation, at least one. Other packages may bring some."""

    def __call__(self, value: Any) -> str | None:
        unknown = [name for name in value if name not in exporters()]
        if unknown or not value:
            what = f"no target {unknown[0]!r}" if unknown else "no target named"
            return f"there is {what}; installed: {', '.join(exporters())}"
        return None


@dataclass(frozen=True)
class Exports(Settings):
    """Which files to make of each model."""

    targets: Annotated[tuple[str, ...], Installed()] = setting(
        ("onnx",), "onnx, openvino, coreml, executorch, litert, mnn, ncnn, tensorrt, torch, …"
    )
    precisions: Annotated[tuple[Precision, ...], Within(1, 100)] = setting(("fp32",), "fp32, fp16 or int8.")
    int8_method: Literal["minmax", "entropy", "percentile", "mse"] = setting("entropy", "How to choose int8's ranges.")
    max_drop: Annotated[float, SHARE] = setting(
        0.01, "Accuracy that fp16 and int8 may lose against fp32.", percent=True
    )
    opset: Annotated[int, OPSET] | None = setting(None, "Newest opset of the target tensorrt's files; any by default.")
