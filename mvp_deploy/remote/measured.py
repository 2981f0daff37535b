"""What was measured with a bundle on a device: the file devices/NAME.json in the bundle."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from mvp_deploy import bundle as bundles
from mvp_deploy.base.board import Board, State
from mvp_deploy.base.errors import ExitCode, InputError, MvpError
from mvp_deploy.base.formats import Count, Malformed, Sha256, Within, Word, parse, read_json
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark.format import Times
from mvp_deploy.bundle import DEVICES, signing
from mvp_deploy.remote.command import Outcome, carry_out
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.session import session

FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """A benchmark of a bundle's models on one device, and how the board was before and after."""

    format: Annotated[int, Within(FORMAT, FORMAT)]
    device: Word
    bundle: Annotated[str, Within(0, 4096)]  # its name
    digest: Sha256  # of what it is made of, as `bundle.digest` has it
    time: str  # by the workstation's clock
    board: Board
    before: State
    after: State
    throttled: tuple[str, ...]  # what lowered the clocks meanwhile, in the last of ``tries``
    tries: Count
    times: Times


@dataclass(frozen=True)
class OnDevice:
    """What became of one device: its measurement, or why there is none, and whether that may be."""

    measured: Measured | None = None
    gap: str | None = None
    code: ExitCode = ExitCode.OK  # what a gap ends with


def measure(
    name: str, device: Device, bundle: Path, options: Sequence[str], reporter: Reporter
) -> tuple[Measured, MvpError | None]:
    """Time the bundle's models on the device, and what the command ended with where a model failed.

    Args:
        options: of `mvp-deploy bench`.

    Raises:
        MvpError: (DEVICE) it is away; (ENVIRONMENT) it cannot do it; or whatever ended the command before it timed.
    """
    files, digest = files_of(bundle), bundles.digest(bundle)
    arguments = ["bench", "bundle", *defaults(device, options, "threads", "device"), *options, "--json"]
    with session(name, device, reporter) as there:
        done = carry_out(there, arguments, files, repeat=True, power=True)
    if done.output is None:
        raise done.error or MvpError(f"{name} timed nothing and says nothing: run again with --debug.")
    answer = done.answer
    measured = Measured(
        FORMAT,
        name,
        bundle.resolve().name,
        digest,
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        answer.board,
        answer.before,
        answer.after,
        answer.throttled,
        answer.tries,
        times_of(done, name),
    )
    if answer.throttled:
        reporter.warn(
            f"{name}: its clocks were lowered while it was timed, {answer.tries} times over "
            f"({', '.join(answer.throttled)}): do not use the times. Give it cooling or more power."
        )
    return measured, done.error


def times_of(done: Outcome, name: str) -> Times:
    """What `mvp-deploy bench` printed on the device. Raises MvpError if it is not a benchmark."""
    try:
        return parse(Times, done.output)
    except Malformed as error:
        raise MvpError(f"{name} gave a benchmark that is not ours ({error}): run again.") from error


def defaults(device: Device, options: Sequence[str], *names: Literal["threads", "device"]) -> list[str]:
    """What devices.yaml says of a device's threads and --device, unless the options do."""
    said = {f"--{name}": getattr(device, name) for name in names}
    return [
        part for key, value in said.items() if value is not None and key not in options for part in (key, str(value))
    ]


def files_of(bundle: Path) -> dict[str, Path | bytes]:
    """A bundle's files as a session sends them, under ``bundle/``; what was built in it too.

    Raises:
        MvpError: it is not a bundle, or not as it was written.
    """
    bundles.read(bundle)
    built = (file.relative_to(bundle).as_posix() for file in sorted((bundle / bundles.BUILT).rglob("*")))
    names = [bundles.MANIFEST, *bundles.listed(bundle), *(name for name in built if not name.endswith("/.lock"))]
    return {f"bundle/{name}": bundle / name for name in names if (bundle / name).is_file()}


def keep(bundle: Path, found: Mapping[str, Measured], key: Path | None) -> None:
    """Put what has times into the bundle, and sign it again where there is a key."""
    timed = {name: each for name, each in found.items() if any(row.timing for row in each.times.rows)}
    files = {f"{DEVICES}/{name}.json": content(each) for name, each in timed.items()}
    if files:
        bundles.add(bundle, files, None if key is None else partial(signing.sign, private_key=key))


def require_key(bundle: Path, key: Path | None) -> None:
    """Refuse to measure what could then not be signed."""
    if key is not None:
        signing.public_half(key)
    elif signing.is_signed(bundle):
        raise InputError(f"{bundle} is signed: give --sign-key, so that it is signed with what is measured.")


def content(measured: Measured) -> bytes:
    return json.dumps(asdict(measured), indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def kept(bundle: Path) -> dict[str, Measured]:
    """What was measured with a bundle on devices, by their names."""
    files = sorted((bundle / DEVICES).glob("*.json"))
    found = [read_json(file, Measured, cure="measure again", versions=(FORMAT,)) for file in files]
    return {each.device: each for each in found}
