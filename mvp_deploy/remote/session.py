"""A session on one device: alone on it, send what is missing, run commands, fetch what they made."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.base.files import atomic_write, sha256
from mvp_deploy.base.findings import OLDEST_PYTHON
from mvp_deploy.base.formats import reading_errors
from mvp_deploy.base.reporter import Named, Reporter
from mvp_deploy.remote.connection import CHUNK, Connection, connected
from mvp_deploy.remote.inventory import Device, Inventory
from mvp_deploy.remote.program import program

T = TypeVar("T")

NEEDED = ("numpy", "click")
ROOM = 32 << 20  # bytes that are left free on the device's disk
MAX_FETCHED = 8 << 30
CLOCK = 120.0  # seconds that two clocks may differ before it is said

# The first folder of the path would be the working directory, where files of others lie.
COMMAND = "import sys; sys.path[0] = sys.argv.pop(1); from mvp_deploy.cli import call_there; call_there({!r})"


@dataclass(frozen=True)
class Hello:
    """What the device's end says of its machine."""

    python: tuple[int, ...]
    executable: str
    machine: str
    packages: tuple[str, ...]  # importable ones, of those that matter
    free: int  # bytes
    workdir: str
    clock_off: float  # seconds that its clock is ahead of ours

    @property
    def lacks(self) -> tuple[str, ...]:
        return tuple(name for name in NEEDED if name not in self.packages)


class Session:
    """One device, held until the session ends.

    reporter: names the device before each line. moved: bytes of content sent and fetched.
    """

    def __init__(self, name: str, device: Device, line: Connection, hello: Hello, reporter: Reporter) -> None:
        self.name, self.device, self.hello = name, device, hello
        self.reporter = Named(reporter, name, bars=False)
        self.moved = 0
        self._line = line
        self._program = ""

    def hold(self, wait: float) -> None:
        """Be alone on the machine, whoever logs in to it, until the session ends. Nothing is sent or run before.

        Raises:
            MvpError: (ENVIRONMENT) another run still holds it after ``wait`` seconds.
        """
        told: list[bool] = []

        def waiting() -> None:
            if not told:
                self.reporter.say(f"another run holds it; waiting up to {wait:.0f} s.")
                told.append(True)

        self._line.waiting = waiting
        keep = self.device.keep_mb * 1_000_000
        self._line.ask("hold", limit=wait + 60.0, wait=wait, keep=keep)

    def send(self, files: Mapping[str, Path | bytes]) -> str:
        """Lay out a fresh folder there with these files, named with slashes, and our program; returns its path.

        Only missing files are sent, and an interrupted transfer resumes.
        """
        self._require()
        sources = {name: _Source(self.name, source) for name, source in files.items()}
        ours = _Source(self.name, program())
        self._put([*sources.values(), ours])
        names = {name: source.sha for name, source in sources.items()}
        answer = self._line.ask("arrange", files=names, program=ours.sha)[0]
        self._program = str(answer["program"])
        return str(answer["folder"])

    def run(
        self, module: str, arguments: Sequence[str], said: Callable[[str], None] = lambda text: None
    ) -> tuple[int, dict[str, tuple[str, int]]]:
        """Call ``mvp_deploy.cli.MODULE.main`` there, in the folder that was sent.

        Gives its exit code, and SHA-256 and size of each file that it left, by its name in the folder.
        """
        self._line.said = said
        argv = [self.hello.executable, "-c", COMMAND.format(module), self._program, *arguments]
        limit = self.device.limit_s
        done = self._line.ask("run", limit=limit + 60.0, argv=argv, seconds=limit)[0]
        made = {str(name): (str(sha), int(size)) for name, (sha, size) in done["files"].items()}
        return int(done["code"]), made

    def content(self, sha: str, size: int, limit: int = CHUNK) -> bytes:
        """A small file that `run` left."""
        if size > limit:
            raise EnvironmentMissing(f"{self.name}: a result of {size:,} bytes is more than it can be: run again.")
        parts = b"".join(self._parts(sha, size))
        if hashlib.sha256(parts).hexdigest() != sha:
            raise EnvironmentMissing(f"{self.name}: a file changed on its way: run again.")
        return parts

    def fetch(self, sha: str, size: int, target: Path) -> None:
        """Write a file that `run` left here, unless it is here already; whole or not at all."""
        if size > MAX_FETCHED:
            raise EnvironmentMissing(f"{self.name}: a file of {size:,} bytes is more than is fetched.")
        if target.is_file() and target.stat().st_size == size and sha256(target) == sha:
            return
        with atomic_write(target) as temporary:
            with temporary.open("wb") as file:
                for part in self._parts(sha, size):
                    file.write(part)
            if sha256(temporary) != sha:
                raise EnvironmentMissing(f"{self.name}: {target.name} changed on its way: run again.")

    def _parts(self, sha: str, size: int) -> Iterator[bytes]:
        done = 0
        while done < size:
            part = self._line.ask("get", sha=sha, offset=done)[1]
            if not part:
                raise EnvironmentMissing(f"{self.name}: a file became shorter: run again.")
            done += len(part)
            self.moved += len(part)
            yield part

    def _put(self, sources: Any) -> None:
        by_sha = {source.sha: source for source in sources}
        answer = self._line.ask("missing", files={sha: source.size for sha, source in by_sha.items()})[0]
        missing = answer["missing"]
        total = sum(by_sha[sha].size - offset for sha, offset in missing.items())
        if total + ROOM > answer["free"]:
            raise EnvironmentMissing(
                f"{self.name} has {answer['free'] / 1e6:.0f} MB free in {self.hello.workdir}, and {total / 1e6:.0f} MB "
                "are to be sent: free some space there, or set another `workdir` in devices.yaml."
            )
        for sha, offset in missing.items():
            source = by_sha[sha]
            for part in source.parts(offset):
                self._line.ask("put", part, sha=sha, size=source.size)
                self.moved += len(part)

    def _require(self) -> None:
        """Refuse a device on which no command of ours can run."""
        found, cure = self.hello, f"`mvp-deploy devices doctor {self.name}` has the lines to run"
        if found.python < OLDEST_PYTHON:
            version = ".".join(map(str, found.python))
            raise EnvironmentMissing(f"{self.name} has Python {version}, and 3.10 is the oldest that works: {cure}.")
        if found.lacks:
            raise EnvironmentMissing(f"{self.name}'s Python lacks {' and '.join(found.lacks)}: {cure}.")


class _Source:
    """A file or bytes to send, by content."""

    def __init__(self, device: str, source: Path | bytes) -> None:
        self.source = source
        if isinstance(source, bytes):
            self.sha, self.size = hashlib.sha256(source).hexdigest(), len(source)
        else:
            with reading_errors(source):
                self.sha, self.size = sha256(source), source.stat().st_size

    def parts(self, offset: int) -> Iterator[bytes]:
        """What follows the offset, in pieces; one empty piece for an empty file."""
        if isinstance(self.source, bytes):
            content = self.source[offset:]
            yield from (content[at : at + CHUNK] for at in range(0, max(len(content), 1), CHUNK))
            return
        with reading_errors(self.source), open(self.source, "rb") as file:
            file.seek(offset)
            left = self.size - offset
            while True:
                part = file.read(min(CHUNK, left))
                if len(part) < min(CHUNK, left):
                    raise InputError(f"{self.source} became shorter while it was sent: run again.")
                yield part
                left -= len(part)
                if left <= 0:
                    return


@contextmanager
def session(name: str, device: Device, reporter: Reporter, *, alone: bool = True) -> Iterator[Session]:
    """Connect to a device and be alone on it, so that nothing of ours is ever timed beside anything else of ours.

    Raises:
        MvpError: (DEVICE) it is not reached, or lost on the way; (ENVIRONMENT) it cannot do what is asked.
    """
    with connected(name, device) as line:
        begin = time.time()
        said = line.ask("hello", workdir=device.workdir, limit=60.0)[0]
        hello = Hello(
            tuple(map(int, said["python"])),
            str(said["executable"]),
            str(said["machine"]),
            tuple(map(str, said["packages"])),
            int(said["free"]),
            str(said["workdir"]),
            float(said["time"]) - (begin + time.time()) / 2,
        )
        found = Session(name, device, line, hello, reporter)
        if abs(hello.clock_off) > CLOCK:
            found.reporter.say(f"its clock is {span(hello.clock_off)}; results carry this machine's time.")
        if alone:
            found.hold(device.wait_s)
        yield found


def on_each(devices: Inventory, work: Callable[[str, Device], T]) -> dict[str, T | MvpError]:
    """Do the work for all devices at once; gives what each came to, or the error that stopped it.

    A machine that several names lead to is used by one of them after the other.
    """
    futures = {name: _begun(work, name, device) for name, device in devices.items()}
    errors = {name: future.exception() for name, future in futures.items()}
    return {name: error if isinstance(error, MvpError) else futures[name].result() for name, error in errors.items()}


def _begun(work: Callable[[str, Device], T], name: str, device: Device) -> Future[T]:
    """Do the work in a thread. Ctrl-C waits for a pool's threads, but not for this one: it ends with the program."""
    future: Future[T] = Future()

    def carry_out() -> None:
        try:
            future.set_result(work(name, device))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=carry_out, daemon=True).start()
    return future


def span(seconds: float) -> str:
    """How far a clock is from ours, in words."""
    hours = abs(seconds) / 3600
    size = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
    return f"{size} {'ahead' if seconds > 0 else 'behind'}"
