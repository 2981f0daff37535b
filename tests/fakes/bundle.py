"""A tiny bundle, as `mvp-deploy export` writes it, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime

from fakes.models import classifier
from mvp_deploy import bundle
from mvp_deploy.bundle import ModelFile
from mvp_deploy.tasks.preprocessing import Preprocessing

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}
CHANNELS = {"unpruned": 32, "pruned": 16}


def tiny_bundle(path: Path, precisions: Sequence[str] = ("fp32", "fp16", "int8"), *, opset: int = 17) -> Path:
    """A pruned and an unpruned classifier in each precision, with samples and the float32 models' logits."""
    images = np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)
    arrays = {"images": images, "labels": np.arange(12) % 4}
    models = []
    with bundle.writing(path) as folder:
        (folder / "models").mkdir()
        for model, channels in CHANNELS.items():
            for precision in precisions:
                file = f"models/{model}.{precision}.onnx"
                classifier(folder / file, precision, opset=opset, channels=channels)
                target = "tensorrt" if precision == "int8" else "onnx"
                models.append(ModelFile(file, model, target, precision, 0.9, 1e-5, TOLERANCE[precision], 100, 1000))
            reference = classifier(folder / "reference.onnx", channels=channels)
            session = onnxruntime.InferenceSession(reference)
            arrays[model] = session.run(None, {"input": images})[0]
            reference.unlink()
        bundle.write_arrays(folder / "samples.npz", arrays)
        bundle.write_json(folder / "labels.json", ["a", "b", "c", "d"])
        how = Preprocessing((3, 8, 8), "bilinear", 1.0, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        bundle.write_json(folder / "preprocessing.json", how.to_json())
        bundle.write_json(folder / "bundle.json", {"models": [asdict(model) for model in models]})
    return path
