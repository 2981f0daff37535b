"""What runs on a device: one command of ours, and in what state the board was before and after it.

The workstation lays out a folder with ASKED in it, and fetches ANSWER from there. Needs click and numpy alone.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from mvp_deploy.base import board
from mvp_deploy.base.errors import EnvironmentMissing
from mvp_deploy.base.formats import read_json
from mvp_deploy.base.watch import cool_down
from mvp_deploy.remote.answer import ANSWER, ASKED, Answer, Asked

TRIES = 2  # of a measurement during which the clocks were lowered


def main() -> None:
    """Do what ASKED says, in the current folder."""
    asked = read_json(ASKED, Asked, cure="run again")
    if wrong := board.differs(asked.power, board.state()):
        raise EnvironmentMissing(f"{'; '.join(wrong)}.")
    answer = measured(lambda: call(asked.arguments), TRIES if asked.repeat else 1)
    Path(ANSWER).write_text(json.dumps(asdict(answer)), encoding="utf-8")


def measured(
    work: Callable[[], tuple[int, str]],
    tries: int,
    *,
    state: Callable[[], board.State] = board.state,
    sleep: Callable[[float], object] = time.sleep,
) -> Answer:
    """What the work gives and how the board was; done again, once it is cool, where its clocks were lowered."""
    number = 0
    while True:
        number += 1
        before = state()
        code, output = work()
        after = state()
        reasons = board.throttled(before, after)
        if code or not reasons or number >= tries:
            return Answer(board.board(), before, after, reasons, number, code, output)
        cool_down(before, state, sleep)


def call(arguments: tuple[str, ...]) -> tuple[int, str]:
    """Our command line in this process: its exit code, and what it printed."""
    from mvp_deploy.cli import main as commands

    said = io.StringIO()
    with redirect_stdout(said):
        try:
            commands(list(arguments), prog_name="mvp-deploy")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None), said.getvalue()
    return 0, said.getvalue()
