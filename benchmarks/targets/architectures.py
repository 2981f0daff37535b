"""Architectures through one target: converted, and run in its runtime (Core ML's, away from macOS, by PyTorch).

    python benchmarks/targets/architectures.py coreml|mnn --out OUT.json

Weights are random: conversion and numbers are checked, accuracy is not. What is in OUT.json already is not done again.
A Markdown table goes to stdout.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch

from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.base.errors import MvpError
from mvp_deploy.benchmark.runner import STAND_IN, logits, open_runner, runs_here
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.exporters.parity import TOLERANCE, check_parity
from mvp_deploy.exporters.protocol import Exporter, Source, exporter

NAMES = {  # the edge of the image in pixels
    "resnet18": 96,
    "regnety_002": 96,
    "densenet121": 96,
    "repvgg_a0": 96,
    "mobilenetv3_small_100": 96,
    "tf_efficientnet_lite0": 96,
    "ghostnetv2_100": 96,
    "convnext_atto": 96,
    "fastvit_t8": 128,
    "efficientformerv2_s0": 224,
    "edgenext_xx_small": 128,
    "mobilevit_xs": 128,
    "levit_128s": 224,
    "vit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "poolformer_s12": 96,
}
PACKAGES = {"coreml": "coremltools", "mnn": "MNN"}
Result = dict[str, float | str]


def checked(target: Exporter, name: str, edge: int) -> dict[str, Result]:
    """For each precision megabytes and the relative difference from PyTorch (`check_parity`), or why there is none."""
    torch.manual_seed(0)
    net = timm().create_model(name, num_classes=10).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:  # timm starts the last norm of many blocks at 0, which would leave the block out
                parameter.uniform_(0.5, 1)
    images = np.random.default_rng(0).standard_normal((8, 3, edge, edge), np.float32)
    with torch.inference_mode():
        reference = net(torch.from_numpy(images)).numpy()

    def one(precision: str, graph: Path) -> Result:
        try:
            source = Source(precision, graph, net, (3, edge, edge))
            made = target.export(source, graph.with_name(f"{precision}{target.suffix}"))
            runtime = None if runs_here(made.path) else STAND_IN
            found = logits(open_runner(made.path, runtime, threads=1), images, len(images))
            parity = check_parity(reference, found, TOLERANCE[precision], exact=precision == "fp32")
        except MvpError as error:
            return {"error": str(error)}
        return {"MB": made.bytes / 1e6, "parity": parity.relative}

    with TemporaryDirectory() as folder:
        graph = export_onnx(net, torch.zeros(1, 3, edge, edge), Path(folder) / "fp32.onnx", {})
        return {precision: one(precision, graph) for precision in target.precisions}


@click.command()
@click.argument("target", type=click.Choice(list(PACKAGES)))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(target: str, out: Path) -> None:
    torch.set_num_threads(1)
    versions = {package: version(package) for package in (PACKAGES[target], "torch", "timm")}
    found = json.loads(out.read_text(encoding="utf-8"))["models"] if out.is_file() else {}
    print("| architecture | pixels | fp32: MB, difference | fp16 | int8 |\n| --- | --- | --- | --- | --- |")
    for name, edge in NAMES.items():
        if name not in found:
            found[name] = checked(exporter(target), name, edge)
            content = {"machine": platform.machine(), "versions": versions, "models": found}
            out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"| {name} | {edge} | {' | '.join(map(cell, found[name].values()))} |", flush=True)


def cell(found: Result) -> str:
    return str(found.get("error") or f"{found['MB']:.1f}, {found['parity']:.1e}")


if __name__ == "__main__":
    main()
