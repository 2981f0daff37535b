"""Classify images with this bundle: needs numpy, Pillow and onnxruntime, nothing else.

python example.py IMAGE …
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from mvp_deploy.tasks.picture import Unreadable, decode, read

HERE = Path(__file__).parent


def prepare(image: Image.Image, how: dict) -> np.ndarray:
    """From an image to the model's input, float32 [1, 3, H, W]: resize, centre, scale to 0..1, normalise."""
    _, height, width = how["input_size"]
    goal = (math.floor(width / how["crop_pct"]), math.floor(height / how["crop_pct"]))
    image = Image.fromarray(decode(image).pixels)
    ratios = (image.width / goal[0], image.height / goal[1])
    if how["crop_mode"] == "squash":
        size = goal
    elif how["crop_mode"] == "border" or goal[0] != goal[1]:
        ratio = max(ratios) if how["crop_mode"] == "border" else min(ratios)
        size = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
    else:
        shortest = min(image.size)
        size = (int(goal[0] * image.width / shortest), int(goal[0] * image.height / shortest))
    fill = tuple(round(255 * value) if how["crop_mode"] == "border" else 0 for value in how["mean"])
    canvas = Image.new("RGB", (width, height), fill)
    resized = image.resize(size, Image.Resampling[how["interpolation"].upper()])
    canvas.paste(resized, (offset(width, size[0]), offset(height, size[1])))
    pixels = np.asarray(canvas, np.float32) / 255
    normalised = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], np.float32)


def offset(box: int, edge: int) -> int:
    """Where an edge begins that is centred in the box; negative for one that is longer."""
    return (box - edge) // 2 if edge < box else -round((edge - box) / 2)


def main() -> None:
    labels = json.loads((HERE / "labels.json").read_text(encoding="utf-8"))
    how = json.loads((HERE / "preprocessing.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(
        str(HERE / "models" / "pruned.fp32.onnx"), providers=["CPUExecutionProvider"]
    )
    for path in sys.argv[1:]:
        try:
            image = Image.fromarray(read(path).pixels)
        except Unreadable as error:
            print(f"{path}: cannot be read as an image ({error})")
            continue
        (logits,) = session.run(["logits"], {"input": prepare(image, how)})
        chances = np.exp(logits[0] - logits[0].max())
        chances /= chances.sum()
        best = int(chances.argmax())
        print(f"{path}: {labels[best]} ({chances[best]:.1%})")


if __name__ == "__main__":
    main()
