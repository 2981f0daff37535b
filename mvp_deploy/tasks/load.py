"""From a task's name to the task."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.tasks.arrays import read_digits, read_npz
from mvp_deploy.tasks.folder import read_folder
from mvp_deploy.tasks.task import Task, parse, source_of


def load_task(spec: str, *, skip_bad: bool = False, seed: int | None = None) -> Task:
    """Load the task named ``SOURCE[#class,class,…]``.

    SOURCE is ``digits``, an ``.npz`` file, or a folder of images (``train/CLASS/…`` with ``val/`` or ``test/``; or one
    folder of classes). Classes keep the order they are named in; without names all are taken, in alphabetical order
    (folders) or the file's. Where the source does not say which images are held out, their content decides
    (`mvp_deploy.tasks.task.held_out`); ``seed`` draws them instead, as it was done before.

    Raises:
        MvpError: (INPUT) the source, a class or an image cannot be used. With ``skip_bad``, unreadable images, and
            classes that lack images in a part, are left out and counted in ``Task.left_out``.
    """
    require_source(spec)
    source, wanted = parse(spec)
    path = Path(os.path.expanduser(source))
    if source == "digits":
        return read_digits(spec, wanted, seed)
    try:
        if path.is_dir():
            return read_folder(spec, path, wanted, skip_bad, seed)
        return read_npz(spec, path, wanted, seed)
    except OSError as error:
        raise EnvironmentMissing(f"{source} cannot be read ({error}): check its permissions") from error


def require_source(spec: str) -> None:
    """Raise MvpError where a task's name cannot be one, or its source is not there; reads no image."""
    source, _ = parse(spec)
    path = Path(os.path.expanduser(source))
    if source != "digits" and not path.is_dir() and not (path.suffix == ".npz" and path.is_file()):
        raise InputError(
            f"there is no image folder or .npz file {source!r}: give the path of one, or 'digits' for the embedded "
            "digits"
        )


def load_again(
    spec: str, fingerprint: str, seed: int, *, source: str | None = None, beside: Path | None = None
) -> Task | None:
    """The task whose images had this fingerprint, split by their content or, as it was done before, by the seed.

    None where its images have changed since, or are read otherwise. They are looked for where they were (``source``);
    then, the whole project may have moved, by the relative path in the current folder and in the three folders above
    ``beside`` (where a run or a bank lies): the fingerprint says which is meant.
    """
    failures: list[MvpError] = []
    loaded = False
    for place in dict.fromkeys([*([source] if source else []), *_places(spec, beside)]):
        for split_by in (None, seed):
            try:
                task = load_task(place, skip_bad=True, seed=split_by)  # the fingerprint is of those that were used
            except MvpError as error:
                failures.append(error)
                continue
            loaded = True
            if task.fingerprint == fingerprint:
                return replace(task, name=spec)
    if not loaded:
        raise failures[0]
    return None


def _places(spec: str, beside: Path | None) -> list[str]:
    """The specification, and what else it may have meant where it was written."""
    above = [] if beside is None else Path(os.path.abspath(beside)).parents[:3]
    sources = {base: source_of(spec, base) for base in above}
    there = [base for base in above if sources[base] != "digits" and (base / sources[base]).exists()]
    found = [f"{base / sources[base]}{spec[len(sources[base]) :]}" for base in there]
    return [spec, *found] if os.path.exists(source_of(spec)) or not found else found
