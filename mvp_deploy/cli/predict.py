"""mvp-deploy predict: what does a bundle's model see in these images?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.bounds import TOP
from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._model import Asked, model_options
from mvp_deploy.cli._on import Fleet, crops_of, given, on_options
from mvp_deploy.cli._types import PATH, Number, Output

if TYPE_CHECKING:
    from mvp_deploy.bundle import Bundle, ModelFile
    from mvp_deploy.inference.model import Prediction


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--top", default=3, show_default=True, type=Number(TOP), help="How many classes to show.")
@click.option("--csv", type=Output(".csv", ".txt"), help="Write image, class and all probabilities to this file.")
@model_options
@on_options
@output_options
def command(
    bundle: Path,
    images: tuple[Path, ...],
    top: int,
    csv: Path | None,
    asked: Asked,
    fleet: Fleet | None,
    console: Console,
) -> None:
    """Classify IMAGES with a model of BUNDLE, in its own runtime. Needs numpy, Pillow, click and that runtime alone.

    With --on the images are read and cropped here, and the model answers there: Pillow is not needed there.

    An image that cannot be read is named, the others are classified, and the exit code is then 2.

    \b
    Examples:
      mvp-deploy predict bundles/dogs rex.jpg bella.jpg
      mvp-deploy predict bundles/dogs photos/*.jpg --target openvino --precision int8 --json
      mvp-deploy predict bundles/dogs photos/*.jpg --csv predictions.csv
      mvp-deploy predict bundles/dogs rex.jpg --on pi5
    """
    from mvp_deploy.base.errors import InputError, MvpError
    from mvp_deploy.bundle import read
    from mvp_deploy.inference.model import open_model, write_predictions

    opened = read(bundle)
    file, where = asked.opened(opened)
    if fleet is not None:
        _on_devices(opened, file, images, top, asked, fleet, csv, console)
        return
    found: dict[str, Prediction] = {}
    unreadable = []
    with open_model(opened, file, threads=asked.threads, device=where) as model:
        for image in images:
            try:
                found[str(image)] = model.predict([image])[0]
            except MvpError as error:
                console.warn(str(error))
                unreadable.append(str(image))
                continue
            console.show(_line(str(image), found[str(image)].best(top)))
    if csv is not None:
        write_predictions(csv, opened.classes, found)
    told = [_told(image, each.best(top)) for image, each in found.items()]
    console.result({"model": file.file, "predictions": told, "unreadable": unreadable})
    if unreadable:
        raise InputError(f"{len(unreadable)} of {len(images)} images cannot be read; the first is {unreadable[0]}.")
    console.next(f"evaluate {bundle} DATA")


def _told(image: str, best: Sequence[tuple[str, float]]) -> dict[str, object]:
    return {"image": image, "label": best[0][0], "classes": dict(best)}


def _line(image: str, best: Sequence[tuple[str, float]]) -> str:
    return f"{image}: " + ", ".join(f"{name} {share:.1%}" for name, share in best)


def _on_devices(
    bundle: Bundle,
    file: ModelFile,
    images: tuple[Path, ...],
    top: int,
    asked: Asked,
    fleet: Fleet,
    csv: Path | None,
    console: Console,
) -> None:
    from mvp_deploy.inference.model import Prediction, softmax, write_predictions
    from mvp_deploy.remote.classify import logits_on

    crops = crops_of(bundle, images)
    on = given("device")
    came_to = fleet.each(
        lambda name, device: logits_on(
            name, device, bundle, file, crops, threads=asked.threads, on=on, reporter=console
        ),
        console,
    )
    found = {}
    for name, logits in came_to.results.items():
        probabilities = [Prediction(row, bundle.classes) for row in softmax(logits)]
        predictions = dict(zip(map(str, images), probabilities, strict=True))
        found[name] = [_told(image, each.best(top)) for image, each in predictions.items()]
        for image, each in predictions.items():
            console.show(f"{name}: " + _line(image, each.best(top)))
        if csv is not None:
            write_predictions(csv.with_stem(f"{csv.stem}-{name}"), bundle.classes, predictions)
    console.result({"model": file.file, "devices": found, "missing": came_to.gaps})
    came_to.end()
    console.next(f"bench {bundle.path} --on {','.join(fleet.devices)}")
