"""The one exception type for what a user can cause, and the exit codes of every command."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process's exit status says; documented in the README."""

    OK = 0
    ERROR = 1
    INPUT = 2  # wrong usage, or input that cannot be used
    ACCURACY = 3  # an accuracy gate not met
    LATENCY = 4  # a latency or size gate not met
    PARITY = 5  # an exported model disagrees with the one it came from
    ENVIRONMENT = 6  # a device, library or permission the machine lacks


class DeployError(Exception):
    """A sentence that says what is wrong and how to mend it, with the exit code it ends the command with."""

    def __init__(self, message: str, code: ExitCode = ExitCode.INPUT) -> None:
        super().__init__(message)
        self.code = code
