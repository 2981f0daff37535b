"""From a task's name to the task."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.base.fetching import fetch, is_url
from mvp_deploy.tasks.arrays import read_digits, read_npz
from mvp_deploy.tasks.coco import list_coco
from mvp_deploy.tasks.listing import Listing, list_folder, narrowed, narrowing, task_of
from mvp_deploy.tasks.parquet import list_parquet
from mvp_deploy.tasks.shards import expand, list_shards
from mvp_deploy.tasks.table import list_table
from mvp_deploy.tasks.task import Task, parse, source_of, split_query

FILES = (".npz", ".csv", ".json", ".parquet", ".tar")
LISTS = {".parquet": list_parquet, ".tar": list_shards}


def load_task(spec: str, *, skip_bad: bool = False, seed: int | None = None) -> Task:
    """Load the task named ``SOURCE[?limit=N&class-map=FILE][#class,class,…]``.

    SOURCE is ``digits``, an ``.npz`` file, a folder of images (``train/CLASS/…`` with ``val/`` or ``test/``; or one
    folder of classes), a CSV, a COCO file, Parquet files, WebDataset's tars, or the URL of any of them (docs/data.md).
    Classes keep the order they are named in; without names all are taken, in alphabetical order or the ``.npz``'s.
    Where the source does not say which images are held out, their content decides
    (`mvp_deploy.tasks.task.held_out`); ``seed`` draws them instead, as it was done before.

    Raises:
        MvpError: (INPUT) the source, a class or an image cannot be used. With ``skip_bad``, unreadable images, and
            classes that lack images in a part, are left out and counted in ``Task.left_out``. (ENVIRONMENT) a URL
            cannot be fetched, or a package is missing.
    """
    require_source(spec)
    source, wanted = parse(spec)
    if source == "digits":
        return read_digits(spec, wanted, seed)
    source, query = split_query(source)
    path = fetch(hub(source)) if is_url(source) else Path(os.path.expanduser(source))
    try:
        listing = _listing(path)
        if listing is None and path.is_dir():
            listing = list_folder(path, None if query else wanted, strict=not query)
        if listing is not None:
            return task_of(narrowed(listing, narrowing(query)), spec, wanted, skip_bad, seed)
        if query:
            raise InputError(f"{source} is not a source of image files: limit and class-map are for those")
        return read_npz(spec, path, wanted, seed)
    except OSError as error:
        raise EnvironmentMissing(f"{source} cannot be read ({error}): check its permissions") from error


def require_source(spec: str) -> None:
    """Raise MvpError where a task's name cannot be one, or its source is not there; reads no image, fetches nothing."""
    source, _ = parse(spec)
    source, query = split_query(source)
    narrowing(query)
    refuse_far_table(source)
    if source == "digits" or is_url(source):
        return
    for path in expand(source):
        if not path.is_dir() and not (path.is_file() and path.suffix.lower() in FILES):  # a pipe would be waited for
            raise InputError(
                f"there is no image folder and no {', '.join(FILES)} file {str(path)!r}: give the path or URL of one, "
                "or 'digits' for the embedded digits"
            )


def refuse_far_table(spec: str) -> None:
    """Refuse a table at a URL: only itself would be fetched, and not the images that it lists."""
    source = split_query(parse(spec)[0])[0]
    if is_url(source) and source.lower().endswith((".csv", ".json")):
        raise InputError(
            f"{source} lists images that lie elsewhere: give the URL of a folder of classes, of tars or of Parquet "
            "files, or download the table with its images."
        )


def files_of(source: str) -> list[Path]:
    """The files that a source other than a folder is read from: itself, and the images that a table lists."""
    path = Path(os.path.expanduser(source))
    if path.suffix.lower() in (".csv", ".json"):
        listing = _listing(path)
        listed = [] if listing is None else [files for part in listing.parts.values() for files in part.values()]
        return [path, *sorted({file for files in listed for file in files})]
    return expand(source)


def _listing(path: Path) -> Listing | None:
    """The images of a source that lists them; None for a folder of classes and for an .npz."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return list_table(path)
    if suffix == ".json":
        return list_coco(path)
    if suffix in (".parquet", ".tar"):
        return LISTS[suffix](str(path), expand(str(path)))
    if path.is_dir():
        for ending, lists in LISTS.items():
            files = sorted(file for file in (*path.glob(f"*{ending}"), *path.glob(f"data/*{ending}")) if file.is_file())
            if files:
                return lists(str(path), files)
    return None


def hub(url: str) -> str:
    """hf://USER/NAME stands for hf://datasets/USER/NAME."""
    return url if not url.startswith("hf://") or url.startswith("hf://datasets/") else f"hf://datasets/{url[5:]}"


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
                return replace(task, name=spec, spec=place)
    if not loaded:
        raise failures[0]
    return None


def _places(spec: str, beside: Path | None) -> list[str]:
    """The specification, and what else it may have meant where it was written."""
    above = [] if beside is None else Path(os.path.abspath(beside)).parents[:3]
    sources = {base: source_of(spec, base) for base in above}
    there = [base for base in above if sources[base] != "digits" and (base / split_query(sources[base])[0]).exists()]
    found = [f"{base / sources[base]}{spec[len(sources[base]) :]}" for base in there]
    return [spec, *found] if os.path.exists(split_query(source_of(spec))[0]) or not found else found
