"""One of our commands, carried out on a device: files in, its result and the board's state back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import DeviceAway, MvpError, error_of
from mvp_deploy.base.formats import Malformed, loads, parse
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.remote.answer import ANSWER, ASKED, MAX_ANSWER, Answer, Asked
from mvp_deploy.remote.session import Session


@dataclass(frozen=True)
class Outcome:
    """``output``: what the command gave as JSON, where it gave any; ``error``: what it ended with."""

    answer: Answer
    output: Any
    error: MvpError | None
    made: Mapping[str, tuple[str, int]]  # SHA-256 and size of the files it left, by name


def carry_out(
    there: Session,
    arguments: Sequence[str],
    files: Mapping[str, Path | bytes],
    *,
    repeat: bool = False,
    power: bool = False,
) -> Outcome:
    """Send the files, and run our command line with these arguments in their folder; it should print JSON.

    Args:
        repeat: once more, where the board says that its clocks were lowered meanwhile.
        power: refuse to begin unless the board is in the state that devices.yaml asks for.

    Raises:
        MvpError: (DEVICE) the device is away; (ENVIRONMENT) it lacks what the command needs. What the command itself
            ended with is in the outcome.
    """
    wanted = there.device.power.model_dump(exclude_none=True) if power else {}
    asked = json.dumps(asdict(Asked(tuple(arguments), repeat, wanted))).encode()
    there.send({**files, ASKED: asked})
    heard, made = call(there, "_there", [], ANSWER)
    try:
        answer = parse(Answer, loads(there.content(*made.pop(ANSWER), limit=MAX_ANSWER)))
        output = loads(answer.output.encode()) if answer.output.strip() else None
    except Malformed as error:
        raise DeviceAway(f"{there.name} gave an answer that is not ours ({error}): run again.") from error
    return Outcome(answer, output, heard.error(answer.code) if answer.code else None, made)


def call(there: Session, module: str, arguments: Sequence[str], gives: str) -> tuple[Heard, dict[str, tuple[str, int]]]:
    """Run a module of ours there, which must leave the file ``gives``: what it said, and the files that it left.

    Raises:
        MvpError: what it ended with.
    """
    heard = Heard(there.name, there.reporter)
    code, made = there.run(module, arguments, heard)
    if code or gives not in made:
        raise heard.error(code or 1)
    return heard, made


class Heard:
    """What a command says on standard error: passed on line by line, and its last error kept."""

    def __init__(self, name: str, reporter: Reporter) -> None:
        self.name, self.reporter = name, reporter
        self.lines: list[str] = []
        self.rest = ""

    def __call__(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            self.lines = [*self.lines[-200:], line]
            if line.startswith("Warning: "):
                self.reporter.warn(line.removeprefix("Warning: "))
            elif not any(each.startswith("Error: ") for each in self.lines):
                self.reporter.say(line)

    def error(self, code: int) -> MvpError:
        begins = [number for number, line in enumerate(self.lines) if line.startswith("Error: ")]
        told = "\n".join(self.lines[begins[-1] :]).removeprefix("Error: ") if begins else self._last(code)
        return error_of(f"{self.name}: {told}", code)

    def _last(self, code: int) -> str:
        if code < 0:
            return f"the command was killed there (signal {-code}), perhaps for want of memory: give it less, or wait."
        last = (self.rest or (self.lines or [""])[-1]).strip()
        return f"the command failed there ({last or f'exit code {code}'}): see `mvp-deploy devices doctor {self.name}`."
