"""What a look at a machine found, here or on a device: one finding a line, with the cure for what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mvp_deploy.base.errors import EnvironmentMissing

OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    cure: a command where one helps. needed: no command runs without it.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    cure: str = ""
    needed: bool = False

    def error(self, device: str) -> EnvironmentMissing | None:
        """What keeps every command from running on the device."""
        if self.state == "ok" or not self.needed:
            return None
        return EnvironmentMissing(f"{device}: {self.name} is {self.state} ({self.detail}): {self.cure}")


def python(version: tuple[int, ...], cure: str = "install Python 3.10 or newer") -> Finding:
    """Whether a Python is new enough."""
    told = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        return Finding("python", "broken", f"{told} is too old", cure, needed=True)
    return Finding("python", "ok", told, needed=True)


def lines(findings: Sequence[Finding]) -> list[str]:
    """The findings as a person reads them, each cure below what it cures."""
    width = max(len(finding.name) for finding in findings)
    shown = []
    for finding in findings:
        shown.append(f"{finding.state:<7}  {finding.name:<{width}}  {finding.detail}")
        if finding.cure:
            shown.append(f"{'':<7}  {'':<{width}}  -> {finding.cure}")
    return shown
