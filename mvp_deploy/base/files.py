"""Files that appear whole or not at all, locks, and checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mvp_deploy.base.errors import Busy
from mvp_deploy.exporters.files import (
    atomic_write,
    flush,
    is_leftover,
    remove_leftovers,
    unwritable,
    write_bytes,
    writing_errors,
)
from mvp_deploy.exporters.formats import plain_file

__all__ = [
    "atomic_write", "flush", "is_leftover", "locked", "remove_leftovers", "sha256", "unwritable", "write_bytes",
    "write_text", "writing_errors",
]  # fmt: skip


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file (UTF-8, ``\\n``) whole or not at all."""
    write_bytes(path, text.encode())


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, as 64 hex digits. Raises InputError for a folder, a pipe or a device."""
    plain_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below the folder, in order, those in linked folders too, and dead links; not what hidden folders hold.

    A link to a folder that it lies in is not followed.
    """
    yield from _files_below(folder, frozenset())


def _files_below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    above = above | {os.path.realpath(folder)}
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield path
        elif not path.name.startswith(".") and os.path.realpath(path) not in above:
            yield from _files_below(path, above)


@contextmanager
def locked(lock: Path, busy: str, *, wait: float = 0) -> Iterator[None]:
    """Hold the lock file ``lock``: nobody else does until the block ends, or the process. Taken again, it holds.

    Args:
        busy: what to tell where another process holds it.
        wait: seconds to wait for it first.

    Raises:
        MvpError: (ENVIRONMENT) another process holds it, or it cannot be made.
    """
    try:
        from filelock import FileLock, Timeout
    except ModuleNotFoundError:  # a device with NumPy and click alone, which runs one command at a time
        yield
        return
    held = FileLock(lock, is_singleton=True)
    with writing_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=wait)
        except Timeout as error:  # an OSError too
            raise Busy(busy) from error
    try:
        yield
    finally:
        if held.lock_counter == 1:
            with suppress(OSError):  # Windows removes no open file
                if lock.stat().st_size == 0:  # else it is somebody else's
                    lock.unlink()  # while it is held: who waits for it sees that it is gone, and makes another
        held.release()
