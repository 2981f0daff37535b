"""Putting a run's reports and bundles to where its ``out`` is: anywhere that fsspec reaches.

Only bundles of the run's own tasks change, and of those only files that their own manifests list. All files are
uploaded first, to ``.mvp-deploy.KEY.tmp`` beside them; then they take their places, each bundle's manifest last; then
goes what is stale. A kill leaves the old bundle, or one that `verify` refuses and the next run mends.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.bundle import MANIFEST, own_names
from mvp_deploy.pipeline.report import NAMES, is_report


def refuse_strangers(url: str, tasks: Iterable[str]) -> None:
    """Refuse a place for reports and for bundles of these tasks where anything lies that would be lost.

    Raises:
        MvpError: (INPUT) something is there that is not ours; (ENVIRONMENT) the place cannot be reached.
    """
    with _reached(url) as (system, root):
        _refuse_strangers(system, root, url, tasks)


def publish(report: Mapping[str, Any], out: Path, url: str) -> None:
    """Put the reports in ``out``, and the bundles that the report names, to ``url``.

    A task that has failed its gates has no bundle there any more.

    Raises:
        MvpError: (INPUT) something is there that is not ours; (ENVIRONMENT) it cannot be written.
    """
    tasks = report["tasks"]
    with _reached(url) as (system, root):
        old = _refuse_strangers(system, root, url, tasks)
        new = {name: _files(Path(task["bundle"])) if task.get("bundle") else [] for name, task in tasks.items()}
        files = {f"bundles/{name}/{file}": Path(tasks[name]["bundle"], file) for name in new for file in new[name]}
        _put(system, root, files | {name: out / name for name in NAMES}, out)
        for name, task in tasks.items():
            if new[name] or task["outcome"] == "failed":
                stale = old[name] - set(new[name])
                for file in sorted(stale, key=lambda file: file == MANIFEST):  # what is left is ours to its end
                    system.rm_file(f"{root}/bundles/{name}/{file}")
                _remove_empty(system, f"{root}/bundles/{name}", stale)


def _refuse_strangers(system: Any, root: str, url: str, tasks: Iterable[str]) -> dict[str, set[str]]:
    """The files of each task's bundle there, where all is ours."""
    there = [name for name in NAMES if system.exists(f"{root}/{name}")]
    if there and not is_report(_read(system, f"{root}/{NAMES[0]}")):
        raise InputError(f"{url} holds a {there[0]} that is not of mvp-deploy: move it away, or choose another out.")
    return {name: _bundle(system, f"{root}/bundles/{name}", f"{url}/bundles/{name}") for name in tasks}


def _bundle(system: Any, folder: str, url: str) -> set[str]:
    """The files of a bundle there; none if there is nothing."""
    names = {name[name.index(folder) + len(folder) :].strip("/") for name in system.find(folder)} - {""}
    if not names:
        return names
    with TemporaryDirectory() as here:
        Path(here, MANIFEST).write_bytes(_read(system, f"{folder}/{MANIFEST}"))
        try:
            strangers = names - own_names(Path(here), names)
        except MvpError:
            strangers = names
    if strangers:
        raise InputError(
            f"{url} holds what is not of its bundle ({min(strangers)}): move that away, or choose another out."
        )
    return names


def _put(system: Any, root: str, files: Mapping[str, Path], out: Path) -> None:
    key = hashlib.sha256(f"{platform.node()}\n{out.resolve()}".encode()).hexdigest()[:16]
    stage = f"{root}/.mvp-deploy.{key}.tmp"  # of this machine and folder, which one run at a time uses
    if system.exists(stage):
        system.rm(stage, recursive=True)  # of a killed run
    for name, file in files.items():
        _make_folder(system, f"{stage}/{name}")
        system.put_file(str(file), f"{stage}/{name}")
    for name in sorted(files, key=lambda name: name.endswith(f"/{MANIFEST}")):
        _make_folder(system, f"{root}/{name}")
        system.mv(f"{stage}/{name}", f"{root}/{name}")
    if system.exists(stage):
        system.rm(stage, recursive=True)  # empty folders by now


def _files(bundle: Path) -> list[str]:
    """The files of a bundle, but of what was built here, and what others put into extra/."""
    names = [file.relative_to(bundle).as_posix() for file in sorted(bundle.rglob("*")) if file.is_file()]
    own = own_names(bundle, names)
    return [name for name in names if name in own and not name.startswith("built/")]


def _make_folder(system: Any, file: str) -> None:
    system.makedirs(file.rpartition("/")[0], exist_ok=True)


def _remove_empty(system: Any, folder: str, files: Iterable[str]) -> None:
    """Remove the folders that these files left empty, where there are such things as folders."""
    parents = {parent.as_posix() for file in files for parent in Path(file).parents}
    for parent in sorted(parents, key=len, reverse=True):
        with suppress(Exception):  # object stores have none
            system.rmdir(f"{folder}/{parent}".removesuffix("/."))


def _read(system: Any, path: str) -> bytes:
    return bytes(system.cat_file(path)) if system.exists(path) else b""


@contextmanager
def _reached(url: str) -> Iterator[tuple[Any, str]]:
    """The file system behind the URL, and the path there; whatever it raises is one sentence."""
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
        system.invalidate_cache()
        root = root.rstrip("/")
        if not system.exists(top := root.partition("/")[0] or "/"):
            raise FileNotFoundError(f"there is no {top}")  # a bucket is made by its owner, not by us
        yield system, root
    except MvpError:
        raise
    except Exception as error:
        raise EnvironmentMissing(
            f"{url} cannot be written to ({type(error).__name__}: {error}): check address, network and credentials.",
        ) from error
