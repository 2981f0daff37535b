"""mvp-deploy evaluate: how accurate is a bundle's model here, on labelled images?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mvp_deploy.base.bounds import LIMIT
from mvp_deploy.cli._common import Console, output_options
from mvp_deploy.cli._model import Asked, model_options
from mvp_deploy.cli._on import Fleet, crops_of, given, on_options
from mvp_deploy.cli._types import PATH, Number, Output

if TYPE_CHECKING:
    from mvp_deploy.inference.evaluate import Evaluation
    from mvp_deploy.remote.inventory import Device

MOST_CLASSES = 12  # of a confusion matrix that a terminal shows; --json has those of any size


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("data")
@click.option("--part", type=click.Choice(["held-out", "test", "train", "all"]), default="held-out", show_default=True,
              help="Which images of DATA; test: of test/ where there are train/, val/ and test/.")  # fmt: skip
@click.option("--limit", type=Number(LIMIT), help="Images of each class at most, as DATA?limit=N.")
@click.option("--class-map", type=PATH, help="Lines OLD,NEW (or JSON), as DATA?class-map=FILE.")
@click.option("--skip-bad", is_flag=True, help="Leave out unreadable images, counting them.")
@click.option("--csv", type=Output(".csv", ".txt"), help="Write image, true and predicted class to this file.")
@model_options
@on_options
@output_options
def command(
    bundle: Path,
    data: str,
    part: str,
    limit: int | None,
    class_map: Path | None,
    skip_bad: bool,
    csv: Path | None,
    asked: Asked,
    fleet: Fleet | None,
    console: Console,
) -> None:
    """Measure the accuracy of a model of BUNDLE on the labelled images of DATA, on this machine.

    DATA is named as for `prune`; classes are matched by name. Needs numpy, Pillow, click and the model's runtime alone.
    With --on the images are read and cropped here, and the model answers there: Pillow is not needed there.

    \b
    Examples:
      mvp-deploy evaluate bundles/dogs data/dogs
      mvp-deploy evaluate bundles/dogs photos --part all --precision int8 --csv predictions.csv
      mvp-deploy evaluate bundles/dogs data/dogs --on pi5
    """
    from mvp_deploy.bundle import read
    from mvp_deploy.inference.evaluate import evaluate, judged, part_of, require_known, write_csv
    from mvp_deploy.inference.model import open_model
    from mvp_deploy.tasks import load_task
    from mvp_deploy.tasks.task import with_query

    opened = read(bundle)
    file, where = asked.opened(opened)
    task, split = part_of(load_task(with_query(data, limit, class_map), skip_bad=skip_bad), part)
    for note in (*task.reading, *(task.leaked if split is task.test else ())):
        console.warn(note)
    if fleet is not None:
        from mvp_deploy.remote.classify import logits_on

        require_known(opened.classes, task)
        images, on = crops_of(opened, list(split.images)), given("device")

        def there(name: str, device: Device) -> Evaluation:
            logits = logits_on(name, device, opened, file, images, threads=asked.threads, on=on, reporter=console)
            return judged(opened.classes, task, split, logits.argmax(1))

        came_to = fleet.each(there, console)
        for name, found in came_to.results.items():
            show(f"{file.file} on {name}", f"{len(split)} images sent there", found, console)
        evaluations = {name: found.to_json() for name, found in came_to.results.items()}
        console.result({"model": file.file, "devices": evaluations, "missing": came_to.gaps})
        if csv is not None:
            for name, found in came_to.results.items():
                write_csv(csv.with_stem(f"{csv.stem}-{name}"), found)
        came_to.end()
        console.next(f"bench {bundle} --on {','.join(fleet.devices)}")
        return
    with open_model(opened, file, threads=asked.threads, device=where) as model, console.progress("evaluating") as step:
        found = evaluate(model, task, split, step)
    show(file.file, f"{len(split)} images", found, console)
    console.result({"model": file.file} | found.to_json())
    if csv is not None:
        write_csv(csv, found)
    console.next(f"predict {bundle} PHOTO")


def show(subject: str, images: str, found: Evaluation, console: Console) -> None:
    """Print an accuracy, that of each class, and the most frequent mistakes."""
    console.show(f"{subject}: accuracy {found.accuracy.shares} on {images}")
    console.show("")
    rows = [(name, count, _share(recall), _share(precision)) for name, count, recall, precision in found.per_class()]
    console.table(("class", "images", "recall", "precision"), rows)
    for line in found.confused():
        console.show(line)
    if len(found.classes) <= MOST_CLASSES:
        console.show("\nTrue classes in rows, given ones in columns:")
        console.table(
            ("", *found.classes), [(name, *row) for name, row in zip(found.classes, found.confusion, strict=True)]
        )


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"
