"""One ssh connection to a device, and the requests that go over it. Each has a time limit, and none asks a question.

Keys, host keys, names and jump hosts are the user's ssh configuration. A session is one connection from its beginning
to its end, so there is nothing that a ControlMaster of our own would share; one in that configuration is used.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from mvp_deploy.base.errors import DeviceAway, EnvironmentMissing, MvpError
from mvp_deploy.remote import agent
from mvp_deploy.remote.inventory import Device

CONNECT = 10  # seconds for ssh to connect
START = 40.0  # seconds until the device's end answers first
SILENCE = 20.0  # seconds in which a device that works says that it is alive, or takes a byte
PING = 5.0
CHUNK = 1 << 20
MAX_FRAME = 16 << 20
OPTIONS = {
    "BatchMode": "yes",  # no password is ever asked for
    "ClearAllForwardings": "yes",
    "ConnectTimeout": str(CONNECT),
    "LogLevel": "ERROR",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
}
# One byte at a time, up to a NUL: what follows belongs to the program that this reads.
BOOT = r'import os;exec(b"".join(iter(lambda:os.read(0,1)or b"\0",b"\0")))'


class Connection:
    """Requests to the device's end, `mvp_deploy.remote.agent`."""

    def __init__(self, name: str, device: Device) -> None:
        self.name = name
        self.said: Callable[[str], None] = lambda text: None
        self.waiting: Callable[[], None] = lambda: None
        self._token = secrets.token_hex(16)
        self._buffer = b""
        self._begun = False
        try:
            self._ssh = subprocess.Popen(
                command(device),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C ends it through us, and the device's end with it
            )
        except FileNotFoundError as error:
            raise EnvironmentMissing("there is no `ssh` here: install OpenSSH's client.") from error
        self._in = cast(IO[bytes], self._ssh.stdin).fileno()
        self._out = cast(IO[bytes], self._ssh.stdout).fileno()
        os.set_blocking(self._in, False)
        self._errors = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def begin(self) -> None:
        """Start the device's end and wait until it is there."""
        self._write(agent.program(self._token) + b"\0")
        mark = f"\n{self._token}\n".encode()
        end = time.monotonic() + START
        while mark not in self._buffer:
            self._buffer = self._buffer[-MAX_FRAME:]
            self._read(end - time.monotonic())
        self._buffer = self._buffer.partition(mark)[2]
        self._begun = True

    def ask(self, do: str, body: bytes = b"", limit: float = 600.0, **frame: Any) -> tuple[dict[str, Any], bytes]:
        """The answer to a request, and its bytes.

        Raises:
            MvpError: (DEVICE) the line broke, or nothing was heard for too long; (ENVIRONMENT) it cannot be done there.
        """
        self._send({"do": do, **frame}, body)
        end, pinged = time.monotonic() + limit, time.monotonic()
        while True:
            answer, content = self._frame()
            if time.monotonic() > end:
                raise DeviceAway(f"{self.name} did not finish {do} in {limit:.0f} s: see what it does there.")
            if time.monotonic() - pinged > PING:
                self._send({"do": "ping"})
                pinged = time.monotonic()
            if "said" in answer:
                self.said(str(answer["said"]))
            elif "waiting" in answer:
                self.waiting()
            elif "error" in answer:
                raise EnvironmentMissing(f"{self.name}: {str(answer['error'])[:1000]}.")
            elif answer.get("done") == do:
                return answer, content

    def close(self) -> None:
        """Leave: the device's end then kills what runs and goes."""
        with suppress(OSError):
            cast(IO[bytes], self._ssh.stdin).close()
        try:
            self._ssh.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
        self._ssh.wait()
        self._listener.join(timeout=2.0)
        for stream in (self._ssh.stdout, self._ssh.stderr):
            cast(IO[bytes], stream).close()

    def _send(self, frame: Mapping[str, Any], body: bytes = b"") -> None:
        self._write(json.dumps({**frame, "bytes": len(body)}).encode() + b"\n" + body)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not select.select([], [self._in], [], SILENCE)[1]:
                raise DeviceAway(
                    f"{self.name} has taken nothing for {SILENCE:.0f} s: check the network and the device."
                )
            try:
                view = view[os.write(self._in, view[:CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._lost() from error

    def _frame(self) -> tuple[dict[str, Any], bytes]:
        while b"\n" not in self._buffer:
            self._read(SILENCE)
        head, _, self._buffer = self._buffer.partition(b"\n")
        try:
            frame = json.loads(head)
            size = frame["bytes"]
            if not (isinstance(size, int) and 0 <= size <= MAX_FRAME):
                raise ValueError(size)
        except (ValueError, KeyError, TypeError) as error:
            raise DeviceAway(f"{self.name} answers what is not ours ({head[:80]!r}): does its login print?") from error
        while len(self._buffer) < size:
            self._read(SILENCE)
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return frame, body

    def _read(self, seconds: float) -> None:
        if not select.select([self._out], [], [], max(0.0, seconds))[0]:
            why = self._complaint()
            told = f" ({why})" if why else ""
            raise DeviceAway(f"{self.name} has said nothing for too long{told}: check the network and the device.")
        found = os.read(self._out, CHUNK)
        if not found:
            raise self._lost()
        self._buffer += found
        if len(self._buffer) > 2 * MAX_FRAME:
            raise DeviceAway(f"{self.name} answers without end: does its login print?")

    def _listen(self) -> None:
        """Keep the end of what ssh complains of."""
        errors = cast(IO[bytes], self._ssh.stderr)
        while text := os.read(errors.fileno(), CHUNK):
            self._errors = (self._errors + text)[-4096:]

    def _complaint(self) -> str:
        lines = self._errors.decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    def _lost(self) -> MvpError:
        """Why the line has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._ssh.wait(timeout=5.0)
        self._listener.join(timeout=2.0)
        code, why = self._ssh.returncode, self._complaint()
        if not self._begun and 0 <= code != 255:  # ssh's own
            return EnvironmentMissing(f"{self.name} does not run `python` of devices.yaml ({why}): set it to another.")
        if code == 255 and not self._begun:
            return DeviceAway(f"{self.name} is not reached ({why}): try `ssh` by hand; it must not ask for anything.")
        return DeviceAway(f"the line to {self.name} broke ({why or f'exit code {code}'}): run again.")


def command(device: Device) -> list[str]:
    """Ssh with the device's end as its command. The Python's ``~/`` is left to the device's shell, which knows it."""
    home, place = ("~/", device.python[2:]) if device.python.startswith("~/") else ("", device.python)
    there = f"exec env PYTHONUTF8=1 LC_ALL=C.UTF-8 {home}{shlex.quote(place)} -u -c {shlex.quote(BOOT)}"
    options = [part for key, value in OPTIONS.items() for part in ("-o", f"{key}={value}")]
    port = [] if device.port is None else ["-p", str(device.port)]
    return ["ssh", "-T", *options, *port, "--", device.address, there]


@contextmanager
def connected(name: str, device: Device) -> Iterator[Connection]:
    """A connection that is closed in the end, whatever happens."""
    line = Connection(name, device)
    try:
        line.begin()
        yield line
    finally:
        line.close()
