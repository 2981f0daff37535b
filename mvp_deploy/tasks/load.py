"""From a task's name to the task."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.base.errors import DeployError
from mvp_deploy.tasks.arrays import read_digits, read_npz
from mvp_deploy.tasks.folder import read_folder
from mvp_deploy.tasks.task import Task, parse


def load_task(spec: str, *, seed: int = 0, skip_bad: bool = False) -> Task:
    """Load the task named ``SOURCE[#class,class,…]``.

    SOURCE is ``digits``, an ``.npz`` file, or a folder of images (``train/CLASS/*`` with ``val/`` or
    ``test/``; or one folder of classes). Classes keep the order they are named in; without names all are
    taken, in alphabetical order (folders) or the file's. ``seed`` chooses the held-out images where the
    source does not say which they are.

    Raises:
        DeployError: (INPUT) the source, a class or an image cannot be used. With ``skip_bad``, unreadable
            images, and classes that lack images in a part, are left out and counted in ``Task.skipped``.
    """
    source, wanted = parse(spec)
    path = Path(source).expanduser()
    if source == "digits":
        return read_digits(spec, wanted, seed)
    if path.is_dir():
        return read_folder(spec, path, wanted, seed, skip_bad)
    if path.suffix == ".npz" and path.is_file():
        return read_npz(spec, path, wanted, seed)
    raise DeployError(
        f"there is no image folder or .npz file {source!r}: give the path of one, or 'digits' for the embedded digits"
    )
