"""From a task's name to the task."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.base.errors import DeployError, ExitCode
from mvp_deploy.tasks.arrays import read_digits, read_npz
from mvp_deploy.tasks.folder import read_folder
from mvp_deploy.tasks.task import Task, parse


def load_task(spec: str, *, skip_bad: bool = False, seed: int | None = None) -> Task:
    """Load the task named ``SOURCE[#class,class,…]``.

    SOURCE is ``digits``, an ``.npz`` file, or a folder of images (``train/CLASS/…`` with ``val/`` or ``test/``; or one
    folder of classes). Classes keep the order they are named in; without names all are taken, in alphabetical order
    (folders) or the file's. Where the source does not say which images are held out, their content decides
    (`mvp_deploy.tasks.task.held_out`); ``seed`` draws them instead, as it was done before.

    Raises:
        DeployError: (INPUT) the source, a class or an image cannot be used. With ``skip_bad``, unreadable images, and
            classes that lack images in a part, are left out and counted in ``Task.left_out``.
    """
    source, wanted = parse(spec)
    path = Path(source).expanduser()
    if source == "digits":
        return read_digits(spec, wanted, seed)
    try:
        if path.is_dir():
            return read_folder(spec, path, wanted, skip_bad, seed)
        if path.suffix == ".npz" and path.is_file():
            return read_npz(spec, path, wanted, seed)
    except OSError as error:
        raise DeployError(f"{source} cannot be read ({error}): check its permissions", ExitCode.ENVIRONMENT) from error
    raise DeployError(
        f"there is no image folder or .npz file {source!r}: give the path of one, or 'digits' for the embedded digits"
    )


def load_again(spec: str, fingerprint: str, seed: int, *, skip_bad: bool = False) -> Task | None:
    """The task whose images had this fingerprint, split by their content or, as it was done before, by the seed.

    None where its images have changed since, or are read otherwise.
    """
    for split_by in (None, seed):
        task = load_task(spec, skip_bad=skip_bad, seed=split_by)
        if task.fingerprint == fingerprint:
            return task
    return None
