"""A RUN folder on disk, old or new, and never half of each.

RUN/pruned.safetensors     the pruned model
RUN/unpruned.safetensors   the unpruned model, fine-tuned on the same task by the same loop
RUN/run.json               task, backbone, metrics of both, votes, recipe; and by ``files`` which two models it is of
RUN/.work/KEY/             what an interrupted run goes on from

A new run's files wait in ``.work`` until all are there; the last is its ``run.json``. From then on whoever comes next,
to read or to write, finishes the moves, so that a kill between two of them does no harm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.files import flush, locked, write_text, writing_errors
from mvp_deploy.base.formats import Malformed, damaged, parse, read_json, sealed, unsealed
from mvp_deploy.base.workspaces import KEY, remove_workspaces
from mvp_deploy.runs.format import RunFile

FORMAT = 2  # of run.json; 1 did not say which models it is of
MODELS = ("unpruned.safetensors", "pruned.safetensors")
CURE = "run `mvp-deploy prune` again"
INFO, WORK, LOCK = "run.json", ".work", ".lock"
PATIENCE = 10.0  # seconds a reader waits for files that are taking their places


def read(folder: Path) -> dict[str, Any]:
    """run.json of a finished run whose two models are its own.

    Raises:
        MvpError: (INPUT) there is no finished run, or one that is damaged or of another version.
    """
    for _ in range(2):  # a new run may take its place while the old one is read
        if _waiting(folder):
            with _alone(folder, PATIENCE):
                _finish(folder)
        info = _info(folder)
        if all(is_of(folder / name, info["files"][name]) for name in MODELS):
            return info
    raise InputError(
        f"{folder} is not of one run (a model is not the one that its {INFO} speaks of): run `mvp-deploy prune` again."
    )


def of_inputs(folder: Path, key: str) -> dict[str, Any] | None:
    """run.json of the finished run, if it was made of the inputs with that key."""
    try:
        info = read(folder)
    except MvpError:
        return None
    return info if info["inputs"] == key else None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keep every other process from writing the RUN folder until the block ends.

    Raises:
        MvpError: (INPUT) the folder holds something else than a run; (ENVIRONMENT) another process is writing it.
    """
    _refuse_strangers(folder)
    with _alone(folder):
        _finish(folder)
        yield


def complete(folder: Path, work: Path, info: Mapping[str, Any], models: Mapping[str, Path]) -> dict[str, Any]:
    """Make a finished run the one of the RUN folder; gives its run.json.

    Args:
        work: one of its workspaces.
        info: run.json, but for what is known here.
        models: by the name it will have, where each model lies: in a workspace, or in its place already.
    """
    files = {name: tensorfile.identity(path) for name, path in models.items()}
    whole = {"format": FORMAT, "files": files, **info}
    parse(RunFile, whole)
    write_text(work / INFO, _text(whole))
    _finish(folder)
    return whole


def readdressed(folder: Path, info: Mapping[str, Any], task: str, source: str) -> dict[str, Any]:
    """run.json of a run whose task is now called, or lies, elsewhere: with the new name and place, and written so."""
    told = {**info, "task": task, "source": source}
    if told != info:
        write_text(folder / INFO, _text(told))
    return told


def is_of(model: Path, identity: str) -> bool:
    """Whether a model's file is the one of that identity."""
    try:
        return tensorfile.identity(model) == identity
    except MvpError:
        return False


def _text(info: Mapping[str, Any]) -> str:
    return json.dumps(sealed(info), indent=2, allow_nan=False) + "\n"


def _waiting(folder: Path) -> list[Path]:
    """Complete runs that have not taken their places yet."""
    return [path.parent for path in (folder / WORK).glob(f"*/{INFO}") if KEY.fullmatch(path.parent.name)]


def _finish(folder: Path) -> None:
    with writing_errors(folder):
        for work in _waiting(folder):
            files = _info(work)["files"]
            for name, identity in files.items():
                found = [path for path in (folder / WORK).glob(f"*/{name}") if is_of(path, identity)]
                if found and not is_of(folder / name, identity):
                    os.replace(found[0], folder / name)
            flush(folder)
            os.replace(work / INFO, folder / INFO)
            flush(folder)
            remove_workspaces(folder / WORK)


def _alone(folder: Path, wait: float = 0) -> AbstractContextManager[None]:
    busy = f"another process is writing the run {folder}: wait for it, or choose another --out."
    return locked(folder / LOCK, busy, wait=wait)


def _info(folder: Path) -> dict[str, Any]:
    missing = f"{folder} is not a finished run: make one with `mvp-deploy prune TASK --out RUN`."
    found = read_json(folder / INFO, dict, cure=CURE, missing=missing, versions=(FORMAT,))
    try:
        info = unsealed(found)
        parse(RunFile, info)
    except Malformed as error:
        raise damaged(folder / INFO, error, CURE) from error
    return info


def _refuse_strangers(folder: Path) -> None:
    """Refuse a place for a run where something else lies that a run would replace, or something that is not a run."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the run.")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for bank in (folder, folder.parent):
        if (bank / "bank.json").exists() and (bank == folder or folder.name in ("tasks", "ladder", WORK)):
            raise InputError(f"{folder} is of the bank {bank}: name a folder of its own for the run.")
    try:
        ours = INFO in names and {"format", "inputs"} <= read_json(folder / INFO, dict, cure=CURE).keys()
    except MvpError:
        ours = False
    models = {name for name in MODELS if name in names and _is_model(folder / name)}
    strange = [*(names - models - {WORK, LOCK, INFO if models else ""})]  # beside our models, run.json is a damaged one
    strange += [str(Path(WORK, path.name)) for path in _inside(folder / WORK) if not KEY.fullmatch(path.name)]
    if strange and not ours:
        raise InputError(f"{folder} holds something else than a run ({min(strange)}): name a new or empty folder.")


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _is_model(path: Path) -> bool:
    try:
        return "plan" in tensorfile.read_header(path)
    except MvpError:
        return False
