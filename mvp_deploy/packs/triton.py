"""NVIDIA Triton's model repository: NAME/config.pbtxt, NAME/labels.txt and NAME/1/ with the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mvp_deploy.packs.subject import Subject, render

MAX_BATCH = 32
DELAY_US = 500  # how long a request waits for others to share its batch


def fill(subject: Subject, folder: Path) -> list[str]:
    """Write the repository into ``folder``."""
    model = folder / subject.name
    openvino = subject.source.suffix == ".xml"
    (model / "1").mkdir(parents=True)
    shutil.copyfile(subject.source, model / "1" / ("model.xml" if openvino else "model.onnx"))
    if openvino:
        shutil.copyfile(subject.source.with_suffix(".bin"), model / "1" / "model.bin")
    channels, height, width = subject.preprocessing.input_size
    config = render(
        "config.pbtxt.j2",
        name=json.dumps(subject.name),
        backend="openvino" if openvino else "onnxruntime",
        max_batch=MAX_BATCH,
        delay_us=DELAY_US,
        bytes_in=subject.bytes_in,
        shape=(height, width, channels) if subject.bytes_in else (channels, height, width),
        outputs=("probabilities", "logits") if subject.bytes_in else ("logits",),
        classes=len(subject.bundle.classes),
    )
    (model / "config.pbtxt").write_text(config, encoding="utf-8")
    (model / "labels.txt").write_text("".join(f"{name}\n" for name in subject.bundle.classes), encoding="utf-8")
    shutil.copyfile(subject.bundle.path / "preprocessing.json", model / "preprocessing.json")
    left = "resize and crop" if subject.bytes_in else "resize, crop and normalise"
    return [
        f"clients {left} images as preprocessing.json says, before they send them",
        f"start it with: tritonserver --model-repository={subject.out}",
    ]
