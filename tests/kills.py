"""Kill a piece of work (SIGKILL) before each of its operations on files in turn."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mvp_deploy.base import folders

OPERATIONS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "chmod", "link")
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that the system has taken: only a power cut would."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was flushed and renamed, in order: «flush NAME» of files and folders, «rename NAME» by the new name."""
    done: list[str] = []
    opened: dict[int, str] = {}
    open_file = os.open

    def opening(path: Any, *arguments: Any, **named: Any) -> int:
        handle = open_file(path, *arguments, **named)
        opened[handle] = Path(path).name
        return handle

    def renaming(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(old: Any, new: Any) -> Any:
            done.append(f"rename {Path(new).name}")
            return rename(old, new)

        return renamed

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(f"flush {opened[handle]}"))
    monkeypatch.setattr(os, "replace", renaming(os.replace))
    monkeypatch.setattr(os, "rename", renaming(os.rename))
    monkeypatch.setattr(folders, "_exchange", renaming(folders._exchange))
    return done


def each_kill(work: Callable[[], object]) -> Iterator[int]:
    """Do ``work`` in a child that dies before its first operation, then before its second, …; last, one that lives.

    Gives each death's number; the caller puts things back before it asks for the next one.
    """
    number = 0
    while _dies(work, number):
        yield number
        number += 1


def _dies(work: Callable[[], object], number: int) -> bool:
    child = os.fork()
    if child == 0:
        _arm(number)
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _arm(number: int) -> None:
    left = iter(range(number))

    def dying(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **named)

        return call

    for name in OPERATIONS:
        setattr(os, name, dying(getattr(os, name)))
    folders._exchange = dying(folders._exchange)
