"""A decision that asked no neighbours on disk, so that a killed call does not decide again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvp_deploy.base.files import write_text
from mvp_deploy.base.formats import Share, Word, read_json
from mvp_deploy.pruning.mvp import Decision
from mvp_deploy.structure import KeepPlan


@dataclass(frozen=True)
class _Kept:
    """The fields of `Decision` that such a one has."""

    plan: dict[str, Any]  # as `KeepPlan.to_json` gives it
    own: Share
    initial: Word
    warnings: tuple[str, ...]
    allotted: dict[str, Any]


def kept(file: Path | None, decide: Callable[[], Decision]) -> Decision:
    """What the file holds; where there is none, what ``decide`` gives, which is written there."""
    if file is not None and file.exists():
        found = read_json(file, _Kept, cure="remove it and call again")
        plan = KeepPlan.from_json(found.plan)
        return Decision(plan, (), (), {}, found.own, found.initial, found.warnings, found.allotted)
    made = decide()
    if file is not None:
        fields = {"plan": made.plan.to_json(), "own": made.own, "initial": made.initial}
        write_text(file, json.dumps(fields | {"warnings": made.warnings, "allotted": dict(made.allotted)}))
    return made
