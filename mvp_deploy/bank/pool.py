"""The images that a ladder is built from: of the bank's tasks, further ones, and unlabelled ones, as one set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mvp_deploy.bank.images import images_of
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.tasks import Images, Preprocessing, Task, load_task, prepare
from mvp_deploy.tasks.folder import photographs
from mvp_deploy.tasks.task import UNLABELLED, parse, told

LEFT_OUT = 1 / 8  # of the images: they judge
MOST = 8192  # images kept in memory


def pool(
    tasks: Sequence[Task],
    folders: Sequence[Path],
    preprocessing: Preprocessing,
    device: torch.device | str,
    *,
    reporter: Reporter,
    most: int = MOST,
) -> Images:
    """The training images of several tasks as one set, a class that several have being one class, and unlabelled ones.

    At most ``most``, of each task as many, and of folders what tasks leave; an image that several have counts once.

    Args:
        folders: of photographs without labels; see `mvp_deploy.tasks.folder.photographs`.
    """
    share = max(1, most // (len(tasks) + len(folders)))
    classes: dict[tuple[str, str], int] = {}
    found: dict[bytes, tuple[Tensor, int]] = {}  # pixels and label by content

    def take(images: Images, labels: Sequence[int]) -> None:
        for x, y in zip(_bytes(images), labels, strict=True):
            found.setdefault(hashlib.sha256(x.numpy().tobytes()).digest(), (x, y))

    for task in tasks:
        images = part(prepare(task.train, preprocessing), share, 0)
        names = [classes.setdefault((parse(task.source)[0], name), len(classes)) for name in task.classes]
        take(images, [names[y] for y in images.labels.tolist()])
    known = len(found)
    for folder in folders:
        split, left_out = photographs(folder, max(1, (most - known) // len(folders)))
        take(part(prepare(split, preprocessing), len(split), 0), split.labels.tolist())
        if left_out:
            reporter.warn(f"{folder}: left out: {told(left_out)}")
    reporter.say(f"{known:,} labelled images of {len(classes)} classes, and {len(found) - known:,} without labels")
    pixels, labels, place = [x for x, _ in found.values()], [y for _, y in found.values()], torch.device(device)
    return Images(torch.stack(pixels).to(place), torch.tensor(labels, device=place), preprocessing, place)


def tasks_of(bank: Bank, more: Sequence[str], reporter: Reporter) -> list[Task]:
    """The bank's tasks, loaded again, and further ones.

    Tasks that are damaged or whose images are missing are left out, with a warning.

    Raises:
        MvpError: one of ``more`` cannot be loaded, or there is none at all.
    """
    found = {name: load_task(name) for name in more}
    left_out: list[str] = []
    for entry in bank.entries(left_out):
        try:
            found.setdefault(entry.name, images_of(entry, bank))
        except MvpError as error:
            left_out.append(str(error))
    for sentence in left_out:
        reporter.warn(f"left out: {sentence}")
    if not found:
        lack = "has no task whose images are there any more" if left_out else "has no tasks yet"
        cure = "Put them back where they were" if left_out else "Add tasks"
        raise InputError(
            f"{bank.folder} {lack}, and what units are worth is known from labelled images alone. {cure}, or name "
            f"labelled images: `mvp-deploy bank build {bank.folder} TASK`."
        )
    return list(found.values())


def labelled(images: Images) -> Images:
    """Those that have a label."""
    known = images.labels != UNLABELLED
    return images if bool(known.all()) else taken(images, known.nonzero().flatten().cpu())


def divided(images: Images, seed: int) -> tuple[Images, Images]:
    """Images to learn from, and those left out."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    few = max(1, round(LEFT_OUT * len(images)))
    return taken(images, order[few:]), taken(images, order[:few])


def part(images: Images, most: int, seed: int) -> Images:
    """At most so many of the images, drawn by the seed, in memory."""
    return taken(images, torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:most])


def taken(images: Images, order: Tensor) -> Images:
    """The images with these numbers, in memory."""
    chosen = images.subset(order)
    if isinstance(chosen.pixels, Tensor):
        return chosen
    return prepare(chosen.pixels, images.preprocessing, images.device)


def fingerprint(images: Images) -> str:
    """SHA-256 over the prepared images and their labels."""
    found = hashlib.sha256(images.labels.cpu().numpy().tobytes())
    for x in _bytes(images):
        found.update(x.numpy().tobytes())
    return found.hexdigest()


def _bytes(images: Images) -> Iterator[Tensor]:
    """Each prepared image as it lies in memory, on the CPU."""
    if not isinstance(images.pixels, Tensor):
        images = part(images, len(images), 0)
    yield from images.pixels.cpu()  # type: ignore[union-attr]
