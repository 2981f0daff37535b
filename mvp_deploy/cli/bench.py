"""mvp-deploy bench: latency of a bundle's models, or of any model files, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.base.errors import InputError
from mvp_deploy.benchmark.config import Timed
from mvp_deploy.cli._common import Console, common_options
from mvp_deploy.cli._on import Fleet, forwarded, on_options
from mvp_deploy.cli._options import options
from mvp_deploy.cli._types import PATH, PRECISION, Output, Span


@click.command()
@click.argument("models", nargs=-1, required=True, type=PATH)
@options("timed", Timed(), batches="--batch")
@click.option("--sustained", type=Span(), help="Then run each model so long without a pause, as 10m.")
@click.option("--runtime", multiple=True, help="Only files for it: onnxruntime, openvino, …  [default: all]")
@click.option("--precision", default="", type=PRECISION, help="Only these of a bundle, as fp32,int8.  [default: all]")
@click.option(
    "--provider",
    multiple=True,
    type=click.Choice(["cpu", "cuda", "tensorrt"]),
    help="Of ONNX Runtime; one row for each.  [default: as --device]",
)
@click.option("--out", type=Output(".json"), help="Write the result as JSON to this file as well.")
@click.option("--sign-key", type=PATH, help="With --on: sign the bundle and what was measured (PEM).")
@on_options
@common_options
def command(
    models: tuple[Path, ...],
    timed: Timed,
    sustained: float | None,
    runtime: tuple[str, ...],
    precision: tuple[str, ...],
    provider: tuple[str, ...],
    out: Path | None,
    sign_key: Path | None,
    fleet: Fleet | None,
    device: str,
    seed: int,
    console: Console,
) -> None:
    """Time a BUNDLE (pruned beside unpruned), a RUN (in PyTorch), or any files, the first as the baseline.

    In five fresh processes all models take turns in short windows. Speed-up is against the unpruned model of the same
    runtime and precision, with its 95 % interval over the processes. Accuracy is that of the export, on the images in
    brackets; «as PyTorch» is measured here: on how many of the bundle's samples the class is the same. A model whose
    outputs are not what they should be is not timed; a row without a time says why, and the exit code is then not 0.
    Times taken while other processes were busy are marked as disturbed.

    With --on the models of BUNDLE are timed on those devices, all at once, and what is found goes into the bundle as
    devices/NAME.json. The exit code is 7 where a device is away.

    \b
    Examples:
      mvp-deploy bench bundles/dogs --batch 1,8,32
      mvp-deploy bench bundles/dogs --runtime onnxruntime --precision int8 --provider cpu --provider cuda
      mvp-deploy bench unpruned.onnx pruned.onnx other.onnx --threads 1 --json
      mvp-deploy bench bundles/dogs --on pi5,orin
    """
    import json

    from mvp_deploy.api.benchmark import benchmark
    from mvp_deploy.base.files import write_text

    if fleet is not None:
        _on_devices(models, fleet, out, sign_key, console)
        return
    if sign_key is not None:
        raise InputError("--sign-key signs what is measured on devices: name them with --on.")
    result = benchmark(
        models,
        timed.batches,
        runtimes=runtime,
        precisions=precision,
        providers=provider,
        threads=timed.threads,
        duration=timed.duration,
        device=device,
        seed=seed,
        sustained=sustained,
        reporter=console,
    )
    console.show(str(result))
    console.result(result.to_json())
    if out is not None:
        write_text(out, json.dumps(result.to_json(), indent=2) + "\n")
    if error := result.failure():
        raise error
    console.next(_next(models))


def _next(models: tuple[Path, ...]) -> str:
    """After a bundle its accuracy here, after a run its export, after files the same table as a page."""
    first = models[0]
    if (first / "bundle.json").is_file():
        return f"evaluate {first} DATA"
    if first.is_dir():
        return f"export {first} --out BUNDLE"
    return f"bench {' '.join(map(str, models))} --out TIMES.json && mvp-deploy report TIMES.json --out TIMES.html"


def _on_devices(
    models: tuple[Path, ...], fleet: Fleet, out: Path | None, sign_key: Path | None, console: Console
) -> None:
    import json
    from dataclasses import asdict

    from mvp_deploy.base.files import write_text
    from mvp_deploy.remote.measured import keep, measure, require_key
    from mvp_deploy.report.devices import side_by_side

    if len(models) > 1:
        raise InputError("--on times the models of one bundle: give its folder alone.")
    (bundle,) = models
    require_key(bundle, sign_key)
    options = forwarded(but=("out", "sign_key"))
    found = fleet.each(lambda name, device: measure(name, device, bundle, options, console), console)
    measured = {name: each for name, (each, _) in found.results.items()}
    keep(bundle, measured, sign_key)
    if measured:
        columns = side_by_side(measured, found.gaps)
        console.table(*columns.table())
        for line in columns.remarks():
            console.show(line)
    result = {"devices": {name: asdict(each) for name, each in measured.items()}, "missing": found.gaps}
    console.result(result)
    if out is not None:
        write_text(out, json.dumps(result, indent=2) + "\n")
    found.end([error for _, error in found.results.values() if error])
    console.next(f"report {bundle} --out DEVICES.html")
