"""A folder that is replaced whole or not at all, whenever the process is killed; what is not ours is never deleted.

.NAME.TOKEN.tmp/part/NAME    the new folder while it is filled
.NAME.TOKEN.tmp/whole/NAME   the new folder, complete: it and NAME change places in one step
.NAME.TOKEN.tmp/old          where the system cannot do that, NAME is moved here first; who comes next finishes it
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import flush, locked, writing_errors
from mvp_deploy.exporters.files import TOKEN

PATIENCE = 10.0  # seconds a reader waits for a swap that is under way


@contextmanager
def atomic_folder(path: Path, check: Callable[[], None], remove: Callable[[Path], None]) -> Iterator[Path]:
    """Give an empty folder of ``path``'s name to fill; when the block ends well it takes ``path``'s place.

    Args:
        check: raises where ``path`` may not be replaced; asked before anything is made, and again before the swap.
        remove: takes away what was replaced, but for what is not ours.

    Raises:
        MvpError: (INPUT) it is a mount point; (ENVIRONMENT) another process is writing there, or nobody can; and
            what ``check`` raises.
    """
    check()
    if os.path.ismount(path):
        raise InputError(f"{path} is a mount point, which cannot be replaced whole: name a folder in it.")
    work = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    fresh = work / "part" / path.name
    with _alone(path):
        _settle(path, remove)
        try:
            with writing_errors(path):
                fresh.mkdir(parents=True)
            yield fresh
            with writing_errors(path):
                for folder, _, files in os.walk(work):
                    for name in ("", *files):
                        flush(Path(folder, name))
                check()
                os.rename(work / "part", work / "whole")
                _swap(work / "whole" / path.name, path, work / "old")
                flush(path.parent)
        finally:
            _settle(path, remove)


def refuse_inside(out: Path, source: Path) -> None:
    """Refuse results in a bank or among images: they would change what they are made of."""
    if source.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
        raise InputError(f"{out} lies in {source}, which the results are made from: choose another --out.")


def restore(path: Path) -> None:
    """Put the folder ``path`` back where a killed process left it halfway between old and new; else do nothing."""
    if not path.exists() and _unfinished(path):
        with _alone(path, PATIENCE):
            _restore(path)


def _alone(path: Path, wait: float = 0) -> AbstractContextManager[None]:
    busy = f"another process is writing {path}: wait for it, or choose another place."
    return locked(path.with_name(f".{path.name}.lock"), busy, wait=wait)


def _settle(path: Path, remove: Callable[[Path], None]) -> None:
    """Finish and clear up what a process began with the folder ``path``. For who is alone with it."""
    with writing_errors(path):
        _restore(path)
        for work in _unfinished(path):
            for left in (work / "whole" / path.name, work / "old"):
                if left.exists() and path.exists():
                    remove(left)
            shutil.rmtree(work / "part", ignore_errors=True)
            for folder in (work / "whole", work):
                with suppress(OSError):  # what is not ours stays
                    folder.rmdir()


def _restore(path: Path) -> None:
    works = sorted(_unfinished(path), key=lambda work: not (work / "old").exists())
    for candidate in (folder for work in works for folder in (work / "whole" / path.name, work / "old")):
        if candidate.exists() and not path.exists():
            with suppress(OSError):  # then what it was is put back
                os.rename(candidate, path)


def _unfinished(path: Path) -> list[Path]:
    """The working folders that replacing ``path`` has left, or is using."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{TOKEN}\.tmp")
    return [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)] if path.parent.is_dir() else []


def _swap(whole: Path, path: Path, old: Path) -> None:
    if path.exists() and not _exchange(whole, path):
        os.rename(path, old)
    if whole.exists() and not path.exists():
        os.rename(whole, path)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False if the system cannot (Linux can: renameat2)."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    with suppress(AttributeError):  # an old C library
        rename = ctypes.CDLL(None).renameat2
        return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
    return False
