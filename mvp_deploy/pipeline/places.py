"""Where a pipeline's banks and data lie: folders, files, or anywhere fsspec reaches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.fetching import fetch, is_url
from mvp_deploy.base.files import files_below, sha256
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.tasks.load import files_of, hub
from mvp_deploy.tasks.task import source_of, split_query


def local(place: str, base: Path, reporter: Reporter | None = None) -> str:
    """A place of deploy.yaml as a local one: URLs fetched, paths taken relative to ``base``, ``digits`` as it is.

    What stands behind a # (a task's classes) is kept, and what behind a ? narrows the source; a class map's path there
    is relative to ``base`` too.

    Raises:
        MvpError: (ENVIRONMENT) a URL cannot be read.
    """
    named = source_of(place, base)
    if named == "digits":
        return place
    source, query = split_query(named if is_url(named) else _beside(named, base))
    found = str(fetch(hub(source), reporter)) if is_url(source) else source
    return found + _asked(query, lambda file: _beside(file, base)) + place[len(named) :]


def _beside(path: str, base: Path) -> str:
    return os.path.relpath(base / Path(os.path.expanduser(path)))


def _asked(query: str, of_map: Callable[[str], str]) -> str:
    """What narrows a source, from its ? on, with something else in the place of the class map's path."""
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if "class-map" in asked:
        asked["class-map"] = of_map(asked["class-map"])
    return f"?{urlencode(asked)}" if asked else ""


def content(place: str) -> str:
    """A checksum of a local file or folder: names and contents, of linked folders too, but not of hidden files.

    Raises:
        MvpError: (INPUT) there is nothing.
    """
    source = source_of(place)
    path = Path(source)
    if source == "digits":
        return source  # part of the code
    if path.is_file():
        return sha256(path)
    if not path.is_dir():
        raise InputError(f"there is no file or folder {source}: check the path in the config.")
    digest = hashlib.sha256()
    for file in files_below(path):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\n{sha256(file)}\n".encode())
    return digest.hexdigest()


def data_content(place: str) -> str:
    """`content` of a task's data: of what a table lists, too, of every shard, and of how the source is narrowed.

    Raises:
        MvpError: (INPUT) there is nothing, or not all of it.
    """
    source, narrowed = split_query(source_of(place))
    query = _asked(narrowed, lambda file: sha256(os.path.expanduser(file)))
    files = [] if source == "digits" or Path(source).is_dir() else files_of(source)
    if len(files) < 2:
        return content(source) if not query else hashlib.sha256(f"{query}\n{content(source)}".encode()).hexdigest()
    told = "\n".join([query, *(f"{file.name}\n{content(str(file))}" for file in files)])
    return hashlib.sha256(told.encode()).hexdigest()
