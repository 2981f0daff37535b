"""The images that a ladder is built from: those of the bank's tasks and of further ones, as one set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mvp_deploy.bank.images import images_of
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.tasks import Images, Preprocessing, Task, load_task, prepare
from mvp_deploy.tasks.task import parse

LEFT_OUT = 1 / 8  # of the images: they judge
MOST = 8192  # images kept in memory


def pool(tasks: Sequence[Task], preprocessing: Preprocessing, device: torch.device | str, most: int = MOST) -> Images:
    """The training images of several tasks as one set, a class that several have being one class.

    At most ``most``, of each task as many; an image that several tasks have counts once.
    """
    share = max(1, most // max(len(tasks), 1))
    classes: dict[tuple[str, str], int] = {}
    seen: set[bytes] = set()
    pixels: list[Tensor] = []
    labels: list[int] = []
    for task in tasks:
        images = part(prepare(task.train, preprocessing), share, 0)
        names = [classes.setdefault((parse(task.source)[0], name), len(classes)) for name in task.classes]
        for x, y in zip(_bytes(images), images.labels.tolist(), strict=True):
            content = hashlib.sha256(x.numpy().tobytes()).digest()
            if content not in seen:
                seen.add(content)
                pixels.append(x)
                labels.append(names[y])
    if not pixels:
        raise InputError("There are no images to build a ladder from: add tasks to the bank, or name --images.")
    place = torch.device(device)
    return Images(torch.stack(pixels).to(place), torch.tensor(labels, device=place), preprocessing, place)


def tasks_of(bank: Bank, more: Sequence[str], reporter: Reporter) -> list[Task]:
    """The bank's tasks, loaded again, and further ones.

    Tasks that are damaged or whose images are missing are left out, with a warning.

    Raises:
        MvpError: one of ``more`` cannot be loaded.
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
    return list(found.values())


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
