"""mvp-deploy predict: what does a bundle's model see in these images?"""

from __future__ import annotations

from pathlib import Path

import click

from mvp_deploy.base.bounds import TOP
from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._model import model_options
from mvp_deploy.cli._types import Number


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", default=3, show_default=True, type=Number(TOP), help="How many classes to show.")
@model_options
@output_options
def command(
    bundle: Path,
    images: tuple[Path, ...],
    top: int,
    unpruned: bool,
    target: str | None,
    precision: str | None,
    threads: int | None,
    device: str,
    console: Console,
) -> None:
    """Classify IMAGES with a model of BUNDLE, in its own runtime. Needs numpy, Pillow, click and that runtime alone.

    An image that cannot be read is named, the others are classified, and the exit code is then 2.

    \b
    Examples:
      mvp-deploy predict bundles/dogs rex.jpg bella.jpg
      mvp-deploy predict bundles/dogs photos/*.jpg --target openvino --precision int8 --json
    """
    from mvp_deploy.base.errors import InputError, MvpError
    from mvp_deploy.bundle import read
    from mvp_deploy.inference.model import chosen, open_model

    opened = read(bundle)
    file = chosen(opened, unpruned=unpruned, target=target, precision=precision)
    found, unreadable = [], []
    with open_model(opened, file, threads=threads, device=device) as model:
        for image in images:
            try:
                best = model.predict([image])[0].best(top)
            except MvpError as error:
                console.warn(str(error))
                unreadable.append(str(image))
                continue
            found.append({"image": str(image), "label": best[0][0], "classes": dict(best)})
            console.show(f"{image}: " + ", ".join(f"{name} {share:.1%}" for name, share in best))
    console.result({"model": file.file, "predictions": found, "unreadable": unreadable})
    if unreadable:
        raise InputError(f"{len(unreadable)} of {len(images)} images cannot be read; the first is {unreadable[0]}.")
