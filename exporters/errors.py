"""What a user can cause: one exception type for each kind, and the exit code of every command that ends with it."""

from __future__ import annotations

from collections.abc import Iterable
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
    DEVICE = 7  # a machine that is reached by ssh is away


# Of several failures the first of these decides: what stopped the work before what the work found.
WORST = (
    ExitCode.ERROR,
    ExitCode.ENVIRONMENT,
    ExitCode.DEVICE,
    ExitCode.INPUT,
    ExitCode.PARITY,
    ExitCode.ACCURACY,
    ExitCode.LATENCY,
    ExitCode.OK,
)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """What a command ends with when its parts would end with these."""
    return min(codes, key=WORST.index, default=ExitCode.OK)


class MvpError(Exception):
    """A sentence that says what is wrong and how to mend it. Its class says of which kind it is."""

    code = ExitCode.ERROR


class InputError(MvpError):
    """Wrong usage, or input that cannot be used."""

    code = ExitCode.INPUT


class StructureError(InputError):
    """A model that cannot be analysed, or cut as asked."""


class AccuracyError(MvpError):
    """A model is less accurate than it must be."""

    code = ExitCode.ACCURACY


class LatencyError(MvpError):
    """A model is slower or larger than it may be."""

    code = ExitCode.LATENCY


class ParityError(MvpError):
    """A model disagrees with the one it was made from."""

    code = ExitCode.PARITY


class EnvironmentMissing(MvpError):
    """The machine lacks a device, a library, a permission or room."""

    code = ExitCode.ENVIRONMENT


class DeviceAway(MvpError):
    """A device is not reached, or the line to it broke."""

    code = ExitCode.DEVICE


class Busy(EnvironmentMissing):
    """Another process is at the same work."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, without the lines that explain its inside; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_KINDS = (MvpError, InputError, AccuracyError, LatencyError, ParityError, EnvironmentMissing, DeviceAway)


def error_of(message: str, code: int) -> MvpError:
    """An error of the kind that ends a command with this exit code."""
    kind = next((kind for kind in _KINDS if kind.code == code), MvpError)
    return kind(message)
