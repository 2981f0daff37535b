"""The device's end of a session: one process that holds the device, keeps files by content, and runs one command.

Sent through ssh and run by ``python -c``, with the standard library alone and Python 3.6 or newer, so that a device
whose Python is too old for the rest can still say so. Nothing of it outlives the connection: when the line ends, or
is silent for too long, the command and all its processes are killed, and the lock falls with the process.

Both ends send frames: a JSON object on one line, then as many bytes as its ``bytes`` says. Every request has one
answer, with ``error`` in it where it failed. While the device works it says ``alive`` every few seconds.

    WORKDIR/blobs/SHA256         content that was sent or made here; SHA256.part while it arrives
    WORKDIR/runtime/SHA256/      the program, unpacked
    WORKDIR/work/TOKEN/          one session's files; removed at its end, or by the next session after a kill
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile

BEAT = 2.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without a word from the workstation, after which the line is taken for dead
CHUNK = 1 << 20
BLOB = re.compile(r"[0-9a-f]{64}(\.part)?")
PACKAGES = ("click", "numpy", "onnxruntime", "tensorrt", "openvino", "ai_edge_litert", "executorch", "PIL")


class Gone(Exception):
    """The workstation has left."""


class Refused(Exception):
    """What cannot be done, in words."""


class Line:
    """Frames from and to the workstation. What anything here prints goes to standard error instead."""

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


class Device:
    """What a session asks of this machine, a method for each request."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.root = ""
        self.work = ""
        self.given = {}  # type: dict
        self.held = None  # type: object
        self.child = None  # type: subprocess.Popen | None

    def hello(self, frame: dict, body: bytes) -> dict:
        """What the workstation must know before it sends anything."""
        self.root = os.path.expanduser(frame["workdir"])
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        return {
            "python": list(sys.version_info[:3]),
            "executable": sys.executable,
            "machine": platform.machine(),
            "time": time.time(),
            "free": shutil.disk_usage(self.root).free,
            "packages": [name for name in PACKAGES if importlib.util.find_spec(name)],
            "workdir": self.root,
        }

    def hold(self, frame: dict, body: bytes) -> dict:
        """Wait to be alone on this machine, then clear up what a killed session left."""
        end = time.monotonic() + frame["wait"]
        while not self._hold():
            if time.monotonic() > end:
                raise Refused("another run has held it for {:.0f} s".format(frame["wait"]))
            self.line.send({"waiting": True})
            self.line.poll(1.0)
        for name in ("blobs", "runtime", "work"):
            os.makedirs(os.path.join(self.root, name), exist_ok=True)
        for left in os.listdir(os.path.join(self.root, "work")):
            shutil.rmtree(os.path.join(self.root, "work", left), ignore_errors=True)
        return {}

    def _hold(self) -> bool:
        """One lock for the machine, whoever logs in: a name that the kernel frees with this process."""
        if sys.platform != "linux":
            lock = open(os.path.join(self.root, "lock"), "a")  # noqa: PLW1514, SIM115
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            self.held = lock
            return True
        lock = socket.socket(socket.AF_UNIX)  # type: ignore[assignment]
        try:
            lock.bind("\0mvp-deploy device {}".format(os.environ.get("TMPDIR", "/tmp")))  # type: ignore[attr-defined]
        except OSError:
            lock.close()
            return False
        self.held = lock
        return True

    def missing(self, frame: dict, body: bytes) -> dict:
        """Which of these contents are not here whole, and how many bytes of each are."""
        found = {}
        for sha, size in frame["files"].items():
            blob = self._blob(sha)
            if os.path.exists(blob) and os.path.getsize(blob) == size and digest(blob) == sha:
                os.utime(blob)
                continue
            remove(blob)
            part = blob + ".part"
            if os.path.exists(part) and os.path.getsize(part) > size:
                remove(part)
            found[sha] = os.path.getsize(part) if os.path.exists(part) else 0
        return {"missing": found, "free": shutil.disk_usage(self.root).free}

    def put(self, frame: dict, body: bytes) -> dict:
        """Add bytes to a content that is on its way; its checksum decides whether it has arrived."""
        blob = self._blob(frame["sha"])
        part = blob + ".part"
        try:
            with open(part, "ab") as file:
                file.write(body)
        except OSError:
            remove(part)  # a full disk is not filled further by what nobody can use
            raise
        if os.path.getsize(part) < frame["size"]:
            return {}
        if digest(part) != frame["sha"]:
            remove(part)
            raise Refused("a file changed on its way: run again")
        os.chmod(part, 0o444)
        os.replace(part, blob)
        return {}

    def unpack(self, frame: dict, body: bytes) -> dict:
        """The program from its zip; older ones go."""
        folder = os.path.join(self.root, "runtime", frame["sha"])
        if not os.path.isdir(folder):
            fresh = folder + ".tmp"
            shutil.rmtree(fresh, ignore_errors=True)
            with zipfile.ZipFile(self._blob(frame["sha"])) as archive:
                archive.extractall(fresh)
            os.rename(fresh, folder)
        os.utime(folder)
        others = [os.path.join(self.root, "runtime", name) for name in os.listdir(os.path.dirname(folder))]
        for old in sorted(others, key=os.path.getmtime)[:-3]:
            shutil.rmtree(old, ignore_errors=True)
        return {"folder": folder}

    def arrange(self, frame: dict, body: bytes) -> dict:
        """A fresh folder with these contents under these names."""
        self._clear()
        self.work = os.path.join(self.root, "work", secrets.token_hex(8))
        os.makedirs(self.work)
        self.given = frame["files"]
        for name, sha in self.given.items():
            path = os.path.join(self.work, *name.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            link(self._blob(sha), path)
        return {"folder": self.work}

    def run(self, frame: dict, body: bytes) -> dict:
        """A command in that folder, to its end; what it says is passed on."""
        self.child = subprocess.Popen(
            frame["argv"],
            cwd=self.work,
            env=dict(os.environ, **frame["env"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
        assert self.child.stderr is not None
        said, end, open_ = self.child.stderr.fileno(), time.monotonic() + frame["seconds"], True
        while self.child.poll() is None:
            self.line.poll(1.0 if open_ else 0.2, *[said][:open_])
            open_ = open_ and self._pass_on(said)
            if time.monotonic() > end:
                raise Refused("the command took longer than {:.0f} s".format(frame["seconds"]))
        while open_ and self._pass_on(said, last=True):
            pass
        code = self.child.returncode
        self._kill()
        return {"code": code}

    def _pass_on(self, said: int, last: bool = False) -> bool:
        """Send on what the command has said by now; whether there may be more."""
        if not select.select([said], [], [], 0)[0]:
            return not last
        text = os.read(said, CHUNK)
        if text:
            self.line.send({"said": text.decode("utf-8", "replace")})
        return bool(text)

    def made(self, frame: dict, body: bytes) -> dict:
        """What the command has left below the folder that was not given to it, kept by content too."""
        found = {}
        for folder, _, names in os.walk(self.work):
            for name in names:
                path = os.path.join(folder, name)
                inside = os.path.relpath(path, self.work).replace(os.sep, "/")
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                sha = digest(path)
                if self.given.get(inside) == sha:
                    continue
                if not os.path.exists(self._blob(sha)):
                    link(path, self._blob(sha))
                found[inside] = [sha, os.path.getsize(path)]
        return {"files": found}

    def get(self, frame: dict, body: bytes) -> dict:
        """Bytes of a content, from an offset on."""
        with open(self._blob(frame["sha"]), "rb") as file:
            file.seek(frame["offset"])
            return {"body": file.read(CHUNK)}

    def tidy(self, frame: dict, body: bytes) -> dict:
        """Remove this session's folder, and the contents that were not used for longest while there are too many."""
        self._clear()
        folder = os.path.join(self.root, "blobs")
        blobs = [os.path.join(folder, name) for name in os.listdir(folder) if BLOB.fullmatch(name)]
        kept = 0
        for blob in sorted(blobs, key=os.path.getmtime, reverse=True):
            kept += os.path.getsize(blob)
            if kept > frame["keep"]:
                remove(blob)
        return {}

    def close(self) -> None:
        """Leave nothing running and nothing of this session."""
        self._kill()
        self._clear()

    def _kill(self) -> None:
        if self.child is not None:
            with contextlib.suppress(OSError):  # all of them have ended
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            self.child = None

    def _clear(self) -> None:
        if self.work:
            shutil.rmtree(self.work, ignore_errors=True)
        self.work = ""

    def _blob(self, sha: str) -> str:
        return os.path.join(self.root, "blobs", sha)


def digest(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(CHUNK), b""):
            found.update(block)
    return found.hexdigest()


def link(source: str, target: str) -> None:
    """The same content under another name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def die_with_parent() -> None:
    """Let the kernel kill the command where this process is killed (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve(token: str) -> None:
    """Answer requests until the line ends."""
    line = Line(token)
    device = Device(line)
    try:
        while True:
            frame, body = line.receive()
            try:
                answer = getattr(device, frame["do"])(frame, body)
                content = answer.pop("body", b"")
                line.send(dict(answer, done=frame["do"]), content)
            except Refused as error:
                line.send({"error": str(error)})
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
                line.send({"error": str(error), "full": full})
    except (Gone, OSError):
        pass
    finally:
        device.close()
