"""Checking deploy.yaml against its schema: every mistake is reported with its line and key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mvp_deploy.base import yamlfile
from mvp_deploy.base.errors import InputError
from mvp_deploy.pipeline.config import Config, Shared

Location = tuple[str | int, ...]

MISTAKES = 20  # told at once


def load(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> Config:
    """Read and check the file; ``changes`` are values to put in place of the file's, as 'gates.max_drop=0.02'.

    Raises:
        MvpError: (INPUT) it cannot be read, or is not as the schema says; names line and key of each mistake.
    """
    path = Path(path)
    root, data = yamlfile.read(path, f"{path} does not exist: `mvp-deploy init` writes one to start from.")
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no keys: `mvp-deploy init` writes one to start from.")
    changed = [_change(data, change) for change in changes]
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        told = dict.fromkeys(_told(path, root, changed, data, problem) for problem in error.errors())
        raise InputError("\n".join([*told][:MISTAKES])) from error


def _change(data: dict[str, Any], change: str) -> Location:
    """Put one 'a.b=value' (the value is YAML) into the data; gives where."""
    key, equals, text = change.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise InputError(f"--set {change}: write it as gates.max_drop=0.02.")
    place: Any = data
    for part in parts[:-1]:
        place = place.setdefault(part, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise InputError(f"--set {change}: what lies above {parts[-1]} has no keys (a list is set as a whole).")
    try:
        place[parts[-1]] = yamlfile.parse(text)[1]
    except yamlfile.NotYaml as error:
        raise InputError(f"--set {change[:100]}: {text[:100]!r} is not a YAML value ({error}).") from error
    return tuple(parts)


def _told(path: Path, root: yaml.Node, changed: Sequence[Location], data: Any, problem: Any) -> str:
    """A validation error as 'FILE, line N: key: what is wrong'."""
    where = _own(data, tuple(part for part in problem["loc"] if part != "[key]"))
    key = ".".join(map(str, where)) or "the file"
    place = f"{path}, line {yamlfile.line_of(root, where)}"
    if any(where[: len(at)] == at[: len(where)] for at in changed):
        place = "--set"
    if len(where) > 1 and where[-2] == "gates" and problem["type"] == "model_type":  # not a device either
        problem = problem | {"type": "extra_forbidden"}
    return f"{place}: {key}: {yamlfile.wrong(problem, _known())}"


def _own(data: Any, where: Location) -> Location:
    """Where a mistake in what a task took over stands: in the section for all."""
    if len(where) > 2 and where[0] == "tasks" and where[2] in Shared.model_fields:
        task = data["tasks"].get(where[1])
        own = task.get(where[2], {}) if isinstance(task, dict) else {}
        if own == {} or (len(where) > 3 and isinstance(own, dict) and where[3] not in own):
            return where[2:]
    return where


def _known() -> set[str]:
    """Every key that exists anywhere in the file."""
    schema = Config.model_json_schema()
    return {name for section in (schema, *schema["$defs"].values()) for name in section["properties"]}
