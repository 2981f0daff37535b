"""The line: frames from and to the workstation. What else this process prints goes to standard error."""

import json
import os
import select
import threading
import time

BEAT = 2.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without a word from the workstation, after which the line is taken for dead
CHUNK = 1 << 20


class Gone(Exception):
    """The workstation has left."""


class Refused(Exception):
    """What cannot be done, and the cure."""


class Line:
    def __init__(self, token: str) -> None:
        self.sink = os.dup(1)
        os.dup2(2, 1)
        self.buffer = b""
        self.heard = time.monotonic()
        self.lock = threading.Lock()
        self._write(b"\n" + token.encode() + b"\n")  # after whatever a login script prints
        threading.Thread(target=self._beat, daemon=True).start()

    def send(self, frame: dict, body: bytes = b"") -> None:
        self._write(json.dumps(dict(frame, bytes=len(body))).encode() + b"\n" + body)

    def receive(self) -> "tuple[dict, bytes]":
        """The next request and its bytes."""
        while True:
            found = self.poll(1.0)
            if found is not None:
                return found

    def poll(self, seconds: float, *also: int) -> "tuple[dict, bytes] | None":
        """A request, where one comes within the time, or before one of the other files has something to read."""
        end = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            ready = select.select([0, *also], [], [], max(0.0, left))[0]
            if 0 in ready:
                self._read()
            elif ready or left <= 0:
                self._check()
                return None
        head, _, rest = self.buffer.partition(b"\n")
        frame = json.loads(head.decode())
        self.buffer = rest
        while len(self.buffer) < frame["bytes"]:
            if select.select([0], [], [], 1.0)[0]:
                self._read()
            self._check()
        body, self.buffer = self.buffer[: frame["bytes"]], self.buffer[frame["bytes"] :]
        return None if frame["do"] == "ping" else (frame, body)

    def _read(self) -> None:
        found = os.read(0, CHUNK)
        if not found:
            raise Gone
        self.buffer += found
        self.heard = time.monotonic()

    def _check(self) -> None:
        if time.monotonic() - self.heard > SILENCE:
            raise Gone

    def _write(self, data: bytes) -> None:
        with self.lock:
            while data:
                data = data[os.write(self.sink, data) :]

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            try:
                self.send({"alive": True})
            except OSError:  # the main thread finds the end of the line by itself
                return
