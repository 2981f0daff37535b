"""What an exported ONNX file says and computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mvp_deploy.exporters.session import open_session


def run_onnx(path: Path, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """The file's logits float32 [n, classes] for images float32 [n, 3, H, W], by ONNX Runtime on the CPU."""
    session = open_session(path)
    name = session.get_inputs()[0].name
    starts = range(0, len(images), batch_size)
    return np.concatenate([session.run(None, {name: images[start : start + batch_size]})[0] for start in starts])


def read_metadata(path: Path) -> dict[str, Any]:
    """What `export_onnx` was given as ``metadata``."""
    props = onnx.load(path, load_external_data=False).metadata_props
    return {entry.key: json.loads(entry.value) for entry in props}
