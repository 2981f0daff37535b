"""The one way to open a model in ONNX Runtime; needs onnxruntime alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnxruntime

CPU: tuple[str, Mapping[str, str]] = ("CPUExecutionProvider", {})
# Rounds float biases beside Q/DQ to int32 by way of fp16 where the rest is fp16, and there they overflow.
UNSOUND = ["WeightBiasQuantization"]


def open_session(
    model: str | os.PathLike[str] | bytes,
    providers: Sequence[tuple[str, Mapping[str, str]]] = (CPU,),
    **options: Any,
) -> onnxruntime.InferenceSession:
    """A session that computes what the graph says, on the CPU unless ``providers`` say otherwise.

    Args:
        model: a file, or the bytes of one.
        options: attributes of ``onnxruntime.SessionOptions``, such as ``intra_op_num_threads``.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors; its warnings concern nothing a user can mend
    for name, value in options.items():
        setattr(settings, name, value)
    source = model if isinstance(model, bytes) else os.fspath(model)
    return onnxruntime.InferenceSession(source, settings, providers=[*providers], disabled_optimizers=UNSOUND)
