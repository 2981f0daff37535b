"""What the workstation asks of a device, and what comes back: the two files of a command that runs there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from mvp_deploy.base.board import Board, State
from mvp_deploy.base.formats import Count, Within

ASKED, ANSWER = "asked.json", "answer.json"
MAX_ANSWER = 64 << 20


@dataclass(frozen=True)
class Asked:
    """A command line of ours; ``repeat``: once more where the clocks were lowered meanwhile."""

    arguments: Annotated[tuple[str, ...], Within(1, 100_000)]
    repeat: bool = False
    power: dict[str, str | bool] = field(default_factory=dict)  # the state asked for, as `board.differs` takes it


@dataclass(frozen=True)
class Answer:
    """What it came to."""

    board: Board
    before: State
    after: State
    throttled: tuple[str, ...]  # what lowered the clocks during the last try
    tries: Count
    code: Annotated[int, Within(-255, 255)]
    output: str  # what the command printed
