"""python large.py BACKBONE FOLDER: an untrained timm model at 224 pixels and half of its units, as files to time.

Writes <unpruned|pruned>.<fp32|int8>.<onnx|xml>. Ranges come from noise: only int8's time means something.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from mvp_deploy import backbones
from mvp_deploy.calibration.convert import convert_int8, measure
from mvp_deploy.calibration.guard import Limit
from mvp_deploy.calibration.images import CalibrationImages
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.exporters.openvino import OpenVinoExporter
from mvp_deploy.exporters.protocol import Source
from mvp_deploy.pruning.budget import Budget, counts_for, keep_best, uniform
from mvp_deploy.structure import analyze, prune

SIZE, CLASSES, KEEP = 224, 10, 0.5


def main(name: str, folder: str) -> None:
    torch.manual_seed(0)
    unpruned = backbones.build(*backbones.create(name, image_size=SIZE), CLASSES).eval()
    example = torch.zeros(1, 3, SIZE, SIZE)
    structure = analyze(unpruned, example)
    plan = keep_best(structure, {}, counts_for(structure, Budget(KEEP, "units"), uniform(structure)))
    noise = np.random.default_rng(0).standard_normal((8, 3, SIZE, SIZE), np.float32)
    images = CalibrationImages(noise, np.zeros(len(noise), np.int64))
    out = Path(f"{folder}.partial")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for model, module in (("unpruned", unpruned), ("pruned", prune(structure, unpruned, plan))):
        fp32 = export_onnx(module, example, out / f"{model}.fp32.onnx", {})
        int8 = out / f"{model}.int8.onnx"
        convert_int8(measure(fp32, images), int8, Limit(lambda _: 1.0, len(images)), target="cpu", method="minmax")
        for precision, onnx in (("fp32", fp32), ("int8", int8)):
            source = Source(precision, onnx, module, (3, SIZE, SIZE))
            OpenVinoExporter().export(source, out / f"{model}.{precision}.xml")
    os.rename(out, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
