"""Files from anywhere fsspec reaches, cached here by checksum; $MVP_DEPLOY_CACHE moves the cache."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import EnvironmentMissing, MvpError
from mvp_deploy.base.files import atomic_write, flush, sha256
from mvp_deploy.base.reporter import Reporter


def is_url(place: str) -> bool:
    return "://" in place


def _unreachable(url: str, error: Exception) -> MvpError:
    return EnvironmentMissing(
        f"{url} cannot be fetched ({type(error).__name__}: {error}): check address, network and credentials.",
    )


def fetch(url: str, reporter: Reporter | None = None) -> Path:
    """A local copy of a remote file or folder. What is here already, by its checksum there, is not fetched again.

    Files of which a server tells nothing that would change with them are fetched each time; the reporter says so.

    Raises:
        MvpError: (ENVIRONMENT) there is nothing, the network fails, or fsspec lacks a package for it.
    """
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
        system.invalidate_cache()
        files = {_relative(name, root): name for name in sorted(system.find(root)) if "/.work/" not in name}
        if not files:
            raise FileNotFoundError(url)
        with ThreadPoolExecutor(8) as threads:  # over http, each is a request
            states = dict(zip(files, threads.map(partial(_state, system), files.values()), strict=True))
        keys = {name: _fetched(system, remote, url, name, states[name]) for name, remote in files.items()}
    except Exception as error:  # whatever the file system behind the URL raises
        raise _unreachable(url, error) from error
    if reporter and (untold := [name for name, state in states.items() if state is None]):
        reporter.warn(
            f"{url}: the server tells neither ETag nor Last-Modified of {len(untold)} files: they are fetched each "
            "time, since nothing else shows whether they have changed"
        )
    return _tree(root.rstrip("/").rpartition("/")[2], keys)


def cache() -> Path:
    """Where fetched files are kept; $MVP_DEPLOY_CACHE moves it."""
    return Path(os.path.expanduser(os.environ.get("MVP_DEPLOY_CACHE", "~/.cache/mvp-deploy")))


def _relative(name: str, root: str) -> str:
    """A found file's name below the root; empty where the root is that file."""
    parts = name.removeprefix(root).lstrip("/")
    if ".." in parts.split("/"):
        raise ValueError(f"{name} leads out of its folder")
    return parts


def _state(system: Any, remote: str) -> str | None:
    """What changes with a remote file's content, as its server tells it; None if it tells nothing of that."""
    if "https" not in system.protocol:
        return str(system.ukey(remote))
    info = system.info(remote)  # by a HEAD request; fsspec's own key for it is the address alone
    told = {name: info[name] for name in ("ETag", "Content-MD5", "Digest", "Last-Modified", "size") if info.get(name)}
    return repr(told) if told.keys() - {"size"} else None


def _fetched(system: Any, remote: str, url: str, name: str, state: str | None) -> str:
    """The name in the cache of a remote file that is there by now."""
    files = cache() / "files"
    if state is not None:
        stored = files / _key(url, name, state)
        if not stored.exists():
            with atomic_write(stored) as temporary:
                system.get_file(remote, str(temporary))
        return stored.name
    fresh = files / f".{secrets.token_hex(8)}"
    files.mkdir(parents=True, exist_ok=True)
    try:
        system.get_file(remote, str(fresh))
        key = _key(url, name, sha256(fresh))
        flush(fresh)
        fresh.replace(files / key)
        return key
    finally:
        fresh.unlink(missing_ok=True)


def _key(url: str, name: str, checksum: object) -> str:
    return hashlib.sha256(f"{url}\n{name}\n{checksum}".encode()).hexdigest()


def _tree(title: str, keys: dict[str, str]) -> Path:
    """A folder (or file) of links to cached files; one for each state the remote one has had."""
    state = hashlib.sha256(repr(sorted(keys.items())).encode()).hexdigest()[:32]
    path = cache() / "trees" / state / title
    if path.exists():
        return path
    partial = path.parent.with_name(f".{state}.{secrets.token_hex(8)}.tmp")
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
