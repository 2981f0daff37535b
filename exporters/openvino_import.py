"""The one place where OpenVINO is imported, without its usage data.

Its package sends them as soon as it is imported, in a process that it forks for that; without the package that does the
sending it goes on with a stand-in of its own.
"""

from __future__ import annotations

import sys
from types import ModuleType


def openvino() -> ModuleType:
    """OpenVINO. Raises ModuleNotFoundError where it is not installed."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # so that importing it fails
    import openvino as module

    return module
