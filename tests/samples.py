"""Small ONNX models and bundles, made without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvp_deploy import bundle
from tests.onnxfiles import run_onnx

CLASSES = ("cat", "dog", "owl")
PREPROCESSING = {
    "input_size": [3, 8, 8],
    "interpolation": "bilinear",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
}


def make_onnx(path: Path, width: int = 8, scale: float = 1.0) -> Path:
    """Convolution, mean, linear: more width is more work; all logits are multiplied by ``scale``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(width)
    weights = {
        "kernel": random.standard_normal((width, 3, 3, 3), np.float32),
        "axes": np.array([2, 3]),
        "matrix": scale * random.standard_normal((width, len(CLASSES)), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["maps", "axes"], ["features"], keepdims=0),
        helper.make_node("MatMul", ["features", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def make_bundle(path: Path, spoil: bool = False, widths: tuple[int, int] = (64, 8)) -> Path:
    """A whole bundle of two such models; ``spoil`` gives the pruned one other logits than it should have."""
    images = np.random.default_rng(1).standard_normal((10, 3, 8, 8), np.float32)
    with bundle.writing(path) as folder:
        arrays = {"images": images, "labels": np.arange(10) % len(CLASSES)}
        records = []
        for name, width in zip(("unpruned", "pruned"), widths, strict=True):
            file = make_onnx(folder / f"models/{name}.fp32.onnx", width)
            arrays[name] = run_onnx(file, images)
            if spoil and name == "pruned":
                make_onnx(file, width, scale=1.01)
            records.append(
                {
                    "file": f"models/{file.name}",
                    "model": name,
                    "target": "onnx",
                    "precision": "fp32",
                    "accuracy": 0.5,
                    "parity": 0.0,
                    "tolerance": 1e-4,
                    "params": 27 * width,
                    "macs": 64 * 27 * width,
                }
            )
        bundle.write_arrays(folder / "samples.npz", arrays)
        bundle.write_json(folder / "labels.json", CLASSES)
        bundle.write_json(folder / "preprocessing.json", PREPROCESSING)
        bundle.write_json(folder / "bundle.json", {"models": records})
    return path
