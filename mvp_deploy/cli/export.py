"""mvp-deploy export: a run's models as a checked bundle."""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.benchmark.config import Timed
from mvp_deploy.cli._common import Console, common_options
from mvp_deploy.cli._options import options
from mvp_deploy.cli._types import PATH
from mvp_deploy.export.config import Exports


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", required=True, type=PATH, help="The bundle's folder.")
@click.option("--data", help="Where the task's images are now, as SOURCE[#class,…].  [default: where they were]")
@options("measure", Timed(), "batches", batches="--measure")
@options("asked", Exports(), targets="--target", precisions="--precision", int8_method="--method")
@click.option("--with-preprocessing", is_flag=True,
              help="Also ONNX files that take bytes and give probabilities (the target onnx-uint8).")  # fmt: skip
@click.option("--pruned-only", is_flag=True, help="Leave the unpruned model's files out of the bundle.")
@click.option("--extra", type=PATH, help="A folder of your own to put into the bundle's extra/.")
@common_options
def command(
    run: Path,
    out: Path,
    data: str | None,
    measure: Timed,
    asked: Exports,
    with_preprocessing: bool,
    pruned_only: bool,
    extra: Path | None,
    device: str,
    seed: int,
    console: Console,
) -> None:
    """Export the pruned and the unpruned model of RUN, check them, and pack a bundle.

    Targets: onnx, onnx-uint8, openvino, coreml, executorch, litert, mnn, ncnn, tensorrt, torch (a .pt2 that loads with
    torch alone), and those that other packages add. Precisions: fp32, fp16, int8. A target leaves out the precisions it
    does not deliver, and says so.

    Every file is compared with PyTorch on the task's held-out images, in its own runtime, one by one and in
    batches. A file without parity is left out, the others are packed, and the exit code is 5; it is 3 where a file is
    less accurate than --max-drop allows. Ranges for fp16 and int8 are measured on training images. Layers that cost
    int8 more accuracy on those than --max-drop go back to higher precision.

    \b
    Examples:
      mvp-deploy export runs/dogs --out bundles/dogs
      mvp-deploy export runs/dogs --out bundles/dogs --target onnx,openvino --precision fp32,int8
    """
    from dataclasses import replace

    from mvp_deploy.base.devices import resolve
    from mvp_deploy.bundle import untried
    from mvp_deploy.export.deploy import export_run
    from mvp_deploy.export.pack import Order, failure
    from mvp_deploy.exporters.protocol import size_of

    if with_preprocessing:
        asked = replace(asked, targets=(*asked.targets, "onnx-uint8"))
    order = Order.of(asked, console, measure=measure.batches, pruned_only=pruned_only, extra=extra)
    bundle = export_run(run, out, order, data=data, device=resolve(device), seed=seed, reporter=console)
    console.table(
        ["model", "target", "precision", "accuracy", "parity", "MB"],
        [
            [
                m.model,
                m.target,
                m.precision,
                f"{m.accuracy:.1%}",
                f"{m.parity:.1e}",
                f"{size_of(bundle.path / m.file) / 1e6:.2f}",
            ]
            for m in bundle.models
        ],
    )
    for remark in untried(bundle.models):
        console.show(remark)
    console.show(f"\nBundle: {out}")
    console.next(f"bench {out}")
    console.result({"bundle": str(out), **bundle.info})
    if error := failure(bundle):
        raise error
