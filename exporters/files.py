"""Saving a file whole or not at all: everything that is written here is written this way."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvp_deploy.exporters.errors import EnvironmentMissing, InputError, MvpError

TOKEN = "[0-9a-f]{16}"  # what makes the name of unfinished work ours alone
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file to write to; when the block ends well it becomes ``path``, else it is removed.

    The temporary file lies in the same folder (so the rename is atomic), keeps the name's ending (some
    libraries choose a format by it) and starts with a dot (so no listing takes it for an entry).
    Contents and rename are flushed to disk, so a power cut leaves either the old file or the new one.
    Who may read it is what the umask says, whatever a library makes of it.

    Raises:
        MvpError: (ENVIRONMENT) the disk is full, the folder read-only, or anything else is in the way; (INPUT) what
            lies there is not a file: a device or a pipe would be replaced too, by who may.
    """
    target = Path(os.path.realpath(path))  # a link stays one: what it points to is replaced
    temporary = target.with_name(f".{_short(target.stem)}.{secrets.token_hex(8)}.tmp{target.suffix}")
    with writing_errors(path):
        if target.exists() and not target.is_file():
            raise InputError(f"{path} exists and is not a file: choose another place.")
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = _create(temporary)
        try:
            yield temporary
            os.chmod(temporary, mode)
            flush(temporary)
            os.replace(temporary, target)
            flush(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of writing ``path``. Only for who holds the lock on it."""
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        if is_leftover(other, path):
            other.unlink(missing_ok=True)


def is_leftover(other: Path, path: Path) -> bool:
    """Whether a file is what a killed process left of writing ``path``, by its name."""
    pattern = rf"\.{re.escape(_short(path.stem))}\.{TOKEN}\.tmp{re.escape(path.suffix)}"
    return re.fullmatch(pattern, other.name) is not None


def flush(path: Path) -> None:
    """Wait until the file, or the folder's list of names, is on the disk (Windows flushes files alone)."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not folder:  # some network file systems flush no folders
            raise
    finally:
        os.close(handle)


@contextmanager
def writing_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Tell an OSError of the block as the sentence that ``path`` cannot be written, and why."""
    try:
        yield
    except RecursionError as error:  # Python makes parent folders one call deeper each
        raise InputError(f"{str(path)[:100]}… has too many folders in each other: choose another place.") from error
    except OSError as error:
        raise unwritable(path, error.errno, error.strerror or str(error)) from error


def unwritable(path: str | os.PathLike[str], number: int | None, why: str) -> MvpError:
    """The sentence for a file or folder that cannot be written. number: what the system calls the reason."""
    cure = "check the path and the disk behind it"
    if number in FULL:
        cure = "free some space there, or choose another place"
    elif number in FORBIDDEN:
        cure = "choose a place you may write to, or change its permissions"
    return EnvironmentMissing(f"{Path(path)} cannot be written ({why}): {cure}.")


def _short(stem: str) -> str:
    """So much of a name that what is added to it stays within the 255 bytes that a name may have."""
    return os.fsencode(stem)[:100].decode(sys.getfilesystemencoding(), errors="ignore")


def _create(path: Path) -> int:
    """Create an empty file; gives the permissions that it has by the umask."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)
