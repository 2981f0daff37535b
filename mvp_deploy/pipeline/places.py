"""Where banks and data lie: folders, files, or anywhere fsspec reaches, then cached here by checksum."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from mvp_deploy.base.errors import DeployError, ExitCode
from mvp_deploy.base.files import atomic_write, sha256


def local(place: str, base: Path) -> str:
    """A place of deploy.yaml as a local one: URLs fetched, paths taken relative to ``base``, ``digits`` as it is.

    What stands behind a # (a task's classes) is kept.

    Raises:
        DeployError: (ENVIRONMENT) a URL cannot be read.
    """
    source, mark, classes = place.partition("#")
    if source == "digits":
        return place
    path = fetch(source) if is_url(source) else Path(os.path.relpath(base / Path(source).expanduser()))
    return f"{path}{mark}{classes}"


def is_url(place: str) -> bool:
    return "://" in place


def publish(out: Path, url: str) -> None:
    """Put reports and bundles of a run to where its ``out`` is, and take away bundles that are no more.

    A bundle's manifest goes last: without it, nobody takes a bundle for whole.

    Raises:
        DeployError: (ENVIRONMENT) it cannot be written.
    """
    import fsspec

    files = [file for file in sorted(out.rglob("*")) if file.is_file() and _is_result(file.relative_to(out))]
    files.sort(key=lambda file: file.name == "manifest.json")
    try:
        system, root = fsspec.core.url_to_fs(url)
        there = root.rstrip("/")
        if not system.exists(top := there.partition("/")[0] or "/"):
            raise FileNotFoundError(f"there is no {top}")  # a bucket is made by its owner, not by us
        if system.exists(f"{there}/bundles"):
            system.rm(f"{there}/bundles", recursive=True)
        for file in files:
            target = f"{there}/{file.relative_to(out).as_posix()}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), target)
    except Exception as error:  # whatever the file system behind the URL raises
        raise _unreachable(url, error, "written to") from error


def _is_result(name: Path) -> bool:
    """Whether a file below a run's ``out`` is for others: not what is hidden, unfinished, or for the next run."""
    return name.parts[0] != "work" and not any(part.startswith(".") for part in name.parts)


def _unreachable(url: str, error: Exception, what: str) -> DeployError:
    return DeployError(
        f"{url} cannot be {what} ({type(error).__name__}: {error}): check address, network and credentials.",
        ExitCode.ENVIRONMENT,
    )


def fetch(url: str) -> Path:
    """A local copy of a remote file or folder. What is here already, by its checksum there, is not fetched again.

    Raises:
        DeployError: (ENVIRONMENT) there is nothing, the network fails, or fsspec lacks a package for it.
    """
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
        files = {_relative(name, root): name for name in sorted(system.find(root)) if "/.work/" not in name}
        if not files:
            raise FileNotFoundError(url)
        keys = {name: _key(url, name, system.ukey(remote)) for name, remote in files.items()}
        for name, remote in files.items():
            stored = cache() / "files" / keys[name]
            if not stored.exists():
                with atomic_write(stored) as temporary:
                    system.get_file(remote, str(temporary))
    except Exception as error:  # whatever the file system behind the URL raises
        raise _unreachable(url, error, "fetched") from error
    return _tree(root.rstrip("/").rpartition("/")[2], keys)


def cache() -> Path:
    """Where fetched files are kept; $MVP_DEPLOY_CACHE moves it."""
    return Path(os.environ.get("MVP_DEPLOY_CACHE", "~/.cache/mvp-deploy")).expanduser()


def _relative(name: str, root: str) -> str:
    """A found file's name below the root; empty where the root is that file."""
    parts = name.removeprefix(root).lstrip("/")
    if ".." in parts.split("/"):
        raise ValueError(f"{name} leads out of its folder")
    return parts


def _key(url: str, name: str, checksum: object) -> str:
    return hashlib.sha256(f"{url}\n{name}\n{checksum}".encode()).hexdigest()


def _tree(title: str, keys: dict[str, str]) -> Path:
    """A folder (or file) of links to cached files; one for each state the remote one has had."""
    state = hashlib.sha256(repr(sorted(keys.items())).encode()).hexdigest()[:32]
    path = cache() / "trees" / state / title
    if path.exists():
        return path
    partial = path.parent.with_name(f".{state}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    for name, key in keys.items():
        file = partial / title / name if name else partial / title
        file.parent.mkdir(parents=True, exist_ok=True)
        _link(cache() / "files" / key, file)
    try:
        partial.rename(path.parent)
    except OSError:  # another process was first
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def content(place: str) -> str:
    """A checksum of a local file or folder: names and contents, but of hidden files.

    Raises:
        DeployError: (INPUT) there is nothing.
    """
    source = place.partition("#")[0]
    path = Path(source)
    if source == "digits":
        return source  # part of the code
    if path.is_file():
        return sha256(path)
    if not path.is_dir():
        raise DeployError(f"there is no file or folder {source}: check the path in the config.")
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\n{sha256(file)}\n".encode())
    return digest.hexdigest()
