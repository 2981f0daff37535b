"""What a session asks of the device: a method for each request."""

import contextlib
import errno
import fcntl
import importlib.util
import os
import platform
import secrets
import shutil
import socket
import sys
import time
import zipfile

from mvp_deploy.remote.agent.job import Job
from mvp_deploy.remote.agent.line import Gone, Line, Refused
from mvp_deploy.remote.agent.store import Store, digest, link

PACKAGES = ("click", "numpy", "onnxruntime", "tensorrt", "openvino", "ai_edge_litert", "executorch", "ncnn", "MNN")
PROGRAMS = 3  # versions of ours that are kept unpacked


class Device:
    def __init__(self, line: Line) -> None:
        self.line = line
        self.root = ""
        self.work = ""
        self.keep = 0
        self.given = {}  # type: dict
        self.held = None  # type: object
        self.job = None  # type: Job | None

    def hello(self, frame: dict, body: bytes) -> dict:
        """What the workstation must know before it sends anything."""
        self.root = os.path.expanduser(frame["workdir"])
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self.store = Store(os.path.join(self.root, "blobs"))
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
                raise Refused(f"another run has held it for {frame['wait']:.0f} s: wait for it to end")
            self.line.send({"waiting": True})
            self.line.poll(1.0)
        self.keep = frame["keep"]
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
        return {"missing": self.store.missing(frame["files"]), "free": shutil.disk_usage(self.root).free}

    def put(self, frame: dict, body: bytes) -> dict:
        self.store.put(frame["sha"], frame["size"], body)
        return {}

    def get(self, frame: dict, body: bytes) -> dict:
        return {"body": self.store.get(frame["sha"], frame["offset"])}

    def arrange(self, frame: dict, body: bytes) -> dict:
        """A fresh folder with these contents under these names, and the program unpacked."""
        self._clear()
        self.work = os.path.join(self.root, "work", secrets.token_hex(8))
        os.makedirs(self.work)
        self.given = frame["files"]
        for name, sha in self.given.items():
            path = os.path.join(self.work, *name.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            link(self.store.path(sha), path)
        return {"folder": self.work, "program": self._unpack(frame["program"])}

    def _unpack(self, sha: str) -> str:
        """The program from its zip; older ones go."""
        folder = os.path.join(self.root, "runtime", sha)
        if not os.path.isdir(folder):
            fresh = folder + ".tmp"
            shutil.rmtree(fresh, ignore_errors=True)
            with zipfile.ZipFile(self.store.path(sha)) as archive:
                archive.extractall(fresh)
            os.rename(fresh, folder)
        os.utime(folder)
        others = [os.path.join(self.root, "runtime", name) for name in os.listdir(os.path.dirname(folder))]
        for old in sorted(others, key=os.path.getmtime)[:-PROGRAMS]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def run(self, frame: dict, body: bytes) -> dict:
        """A command in that folder, to its end, and the files it has left there."""
        self.job = Job(frame["argv"], self.work)
        code = self.job.run(self.line, frame["seconds"])
        self._kill()
        return {"code": code, "files": self._made()}

    def _made(self) -> "dict[str, list]":
        """SHA-256 and size of the files below the folder that were not given to the command, kept by content too."""
        found = {}
        for folder, _, names in os.walk(self.work):
            for name in names:
                path = os.path.join(folder, name)
                inside = os.path.relpath(path, self.work).replace(os.sep, "/")
                if os.path.islink(path) or not os.path.isfile(path) or self.given.get(inside) == digest(path):
                    continue
                found[inside] = [self.store.add(path), os.path.getsize(path)]
        return found

    def close(self) -> None:
        """Leave nothing running, nothing of this session, and not more files than may be kept."""
        self._kill()
        self._clear()
        if self.held:
            with contextlib.suppress(OSError):
                self.store.tidy(self.keep)

    def _kill(self) -> None:
        if self.job is not None:
            self.job.kill()
            self.job = None

    def _clear(self) -> None:
        if self.work:
            shutil.rmtree(self.work, ignore_errors=True)
        self.work = ""


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
                cure = "free some space there" if full else "set `workdir` in devices.yaml to another folder"
                line.send({"error": f"{error}: {cure}"})
    except (Gone, OSError):
        pass
    finally:
        device.close()
