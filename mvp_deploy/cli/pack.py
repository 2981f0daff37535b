"""mvp-deploy pack: a bundle for a server or a hub."""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._types import PATH


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--for", "kind", required=True, type=click.Choice(["triton", "deepstream", "hf"]), help="Who takes it.")
@click.option("--out", required=True, type=PATH, help="The folder to write.")
@click.option("--file", help="Which model, such as models/pruned.int8.onnx.  [default: the first that fits]")
@click.option("--name", help="The model's name there.  [default: the task's]")
@output_options
def command(bundle: Path, kind: str, out: Path, file: str | None, name: str | None, console: Console) -> None:
    """Write a model of BUNDLE as a server or a hub takes it.

    \b
    triton       a model repository: config.pbtxt with dynamic batching, labels.txt, the model
    deepstream   nvinfer's configuration, labels.txt, and the ONNX file its engine is built from
    hf           a Hugging Face repository: model card and bundle; `mvp-deploy push` uploads it

    \b
    Examples:
      mvp-deploy pack bundles/dogs --for triton --out model_repository
      mvp-deploy pack bundles/dogs --for hf --out hub/dogs --name dogs-small
    """
    from mvp_deploy.bundle import read
    from mvp_deploy.packs.pack import pack

    notes = pack(read(bundle), kind, out, file=file, name=name)
    console.show(f"Packed: {out}")
    for note in notes:
        console.show(f"  {note}.")
    console.result({"out": str(out), "for": kind, "notes": notes})
    if kind == "hf":
        console.next(f"push {out} USER/NAME")
    elif kind == "triton":
        console.next(f"--model-repository={out.resolve()}", program="tritonserver")
    else:
        console.next(f"set config-file-path={out / 'config_infer.txt'}", program="in your pipeline's nvinfer,")
