"""How a task fares: the steps done, and what stopped it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from mvp_deploy.base.errors import ExitCode, MvpError, of_system
from mvp_deploy.base.files import write_text
from mvp_deploy.pipeline import steps
from mvp_deploy.pipeline.steps import Done, Work

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why a task's steps could not go on."""

    message: str
    code: ExitCode


@dataclass(frozen=True)
class Progress:
    """A task on its way: what was done, and what stopped it, if anything did."""

    done: tuple[Done, ...] = ()
    failure: Failure | None = None


def go_on(
    work: Work, progress: Progress, keys: Mapping[str, str], actions: Mapping[str, Callable[[], bool | None]]
) -> Progress:
    """Do steps in turn, each only where its inputs have changed, up to the first that fails.

    keys, actions: for each step, the key of its inputs and what doing it is.
    """
    for step, action in actions.items():
        if progress.failure:
            break
        found = caught(partial(steps.once, work, step, keys[step], action), work.folder)
        if isinstance(found, Failure):
            progress = Progress((*progress.done, Done(step, "failed")), found)
        else:
            progress = Progress((*progress.done, found))
    return progress


def caught(action: Callable[[], T], folder: Path | None = None) -> T | Failure:
    """What ``action`` gives, or the failure that stopped it: no task's trouble is another's.

    folder: where an unexpected error's traceback is kept.
    """
    try:
        return action()
    except MvpError as error:
        return Failure(str(error), error.code)
    except OSError as error:
        return Failure(str(of_system(error)), ExitCode.ENVIRONMENT)
    except Exception as error:
        where = ""
        if folder is not None:
            write_text(folder / "error.txt", traceback.format_exc())
            where = f" (traceback in {folder / 'error.txt'})"
        return Failure(f"unexpected {type(error).__name__}: {error}{where}", ExitCode.ERROR)
