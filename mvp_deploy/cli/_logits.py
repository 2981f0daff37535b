"""What runs on a device for `evaluate` and `predict`: logits of crops. Needs numpy, click and the runtime alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mvp_deploy.base.formats import read_json


def main() -> None:
    """Arguments: the model's file in bundle/, threads (0: one per core), device, and how many files of images."""
    file, threads, device, count = sys.argv[1:]
    _compute(file, int(threads) or None, device, int(count))


def _compute(file: str, threads: int | None, device: str, count: int) -> None:
    from mvp_deploy import bundle
    from mvp_deploy.exporters.arrays import Plain, read_npz
    from mvp_deploy.inference.model import open_model
    from mvp_deploy.tasks.preprocessing import Preprocessing

    how = read_json("bundle/preprocessing.json", Preprocessing, cure="run again")
    opened = bundle.read("bundle")
    record = next(each for each in opened.models if each.file == file)
    parts = []
    with open_model(opened, record, threads=threads, device=device) as model:
        for number in range(count):
            found = read_npz(Path("images", f"{number}.npz"), {"images": Plain("uint8", 4)}, cure="run again")
            parts.append(model.logits([how.normalise(crop) for crop in found["images"]]))
    bundle.write_arrays(Path("logits.npz"), {"logits": np.concatenate(parts)})
