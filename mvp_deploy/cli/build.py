"""mvp-deploy build: a bundle's engines, on the machine that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.bounds import LEVEL, WORKSPACE
from mvp_deploy.cli._common import Console, common_options
from mvp_deploy.cli._on import Fleet, forwarded, on_options
from mvp_deploy.cli._types import PATH, PRECISION, Number

if TYPE_CHECKING:
    from mvp_deploy.export.engines import Engine


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--target", type=click.Choice(["tensorrt"]), default="tensorrt", show_default=True)
@click.option(
    "--precision", default="", type=PRECISION, help="As fp32,fp16,int8.  [default: those the bundle has ONNX files of]"
)
@click.option(
    "--batch",
    multiple=True,
    default=["1", "1:8:32"],
    show_default=True,
    help="A batch size, or least:best:most; may be given several times.",
)
@click.option("--workspace", type=Number(WORKSPACE), help="MiB of GPU memory a layer may use.  [default: all]")
@click.option("--level", type=Number(LEVEL), help="Optimisation, 0 (built soon) to 5 (runs fast).")
@click.option("--version-compatible", is_flag=True, help="An engine that later TensorRT versions run too.")
@click.option("--hardware-compatible", is_flag=True, help="An engine that other GPUs from Ampere on run too.")
@on_options
@common_options
def command(
    bundle: Path,
    target: str,
    precision: tuple[str, ...],
    batch: tuple[str, ...],
    workspace: int | None,
    level: int | None,
    version_compatible: bool,
    hardware_compatible: bool,
    fleet: Fleet | None,
    device: str,
    seed: int,
    console: Console,
) -> None:
    """Build the models of BUNDLE as engines for this machine's GPU and TensorRT, check them, keep them in it.

    Needs numpy, click and TensorRT alone. Each engine must use the precision it was asked for, as TensorRT's
    inspector tells, and must agree with PyTorch on the bundle's samples. Engines that are there and made from the
    same are kept.

    With --on they are built on those devices, and come back into BUNDLE for the next `bench --on`.

    \b
    Examples:
      mvp-deploy build bundles/dogs --target tensorrt --precision fp16,int8
      mvp-deploy build bundles/dogs --batch 1 --batch 1:16:64 --level 5
      mvp-deploy build bundles/dogs --on orin
    """
    from mvp_deploy import bundle as bundles
    from mvp_deploy.export.engines import build_engines
    from mvp_deploy.exporters.tensorrt.build import Options, Profile

    if fleet is not None:
        from mvp_deploy.remote.build import build

        arguments = forwarded()
        came_to = fleet.each(lambda name, device: build(name, device, bundle, arguments, console), console)
        rows = [(name, file) for name, (files, _) in came_to.results.items() for file in files]
        if rows:
            console.table(["device", "built"], rows)
        built = {name: files for name, (files, _) in came_to.results.items()}
        console.result({"bundle": str(bundle), "devices": built, "missing": came_to.gaps})
        came_to.end([error for _, error in came_to.results.values() if error])
        console.next(f"bench {bundle} --on {','.join(fleet.devices)}")
        return
    options = Options(
        profiles=tuple(map(Profile.parse, batch)),
        workspace=workspace,
        level=level,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )
    engines = build_engines(bundles.read(bundle), precision, options, device=device, reporter=console)
    console.table(
        ["model", "precision", "layers", "parity", "MB", "seconds", ""], [_cells(engine) for engine in engines]
    )
    console.result({"bundle": str(bundle), "engines": [engine.to_json() for engine in engines]})
    if error := next((engine.error for engine in engines if engine.error), None):
        raise error
    console.next(f"bench {bundle}")


def _cells(engine: Engine) -> list[str]:
    if engine.layers is None:
        return [engine.model, engine.precision, "", "", "", "", f"failed: {engine.error}"]
    layers = ", ".join(f"{count} {name}" for name, count in sorted(engine.layers.items()))
    time = "kept" if engine.reused else f"{engine.seconds:.0f}"
    size = f"{engine.size / 1e6:.2f}"
    return [engine.model, engine.precision, layers, f"{engine.parity or 0:.1e}", size, time, ""]
