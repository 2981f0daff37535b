"""Folders for unfinished work, each named by a key of what the work depends on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from mvp_deploy.base.files import writing_errors

KEY = re.compile(r"[0-9a-f]{16}")


def workspaces(folder: Path, *keys: str) -> list[Path]:
    """The folders below ``folder`` for work with exactly these keys (16 hex digits each); those of others go."""
    own = [folder / key for key in keys]
    remove_workspaces(folder, kept=own)
    with writing_errors(folder):
        for path in own:
            path.mkdir(parents=True, exist_ok=True)
    return own


def remove_workspaces(folder: Path, kept: Collection[Path] = ()) -> None:
    """Remove finished work, and ``folder`` where nothing else is in it."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if KEY.fullmatch(path.name) and path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()
