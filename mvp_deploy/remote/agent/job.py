"""One command: what it says is passed on, and none of its processes outlives it or this process."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

from mvp_deploy.remote.agent.line import CHUNK, Line, Refused


class Job:
    def __init__(self, argv: "list[str]", folder: str) -> None:
        self.child = subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
        assert self.child.stderr is not None
        self.said = self.child.stderr.fileno()

    def run(self, line: Line, seconds: float) -> int:
        """To its end; its exit code."""
        end, open_ = time.monotonic() + seconds, True
        while self.child.poll() is None:
            line.poll(1.0 if open_ else 0.2, *[self.said][:open_])
            open_ = open_ and self._pass_on(line)
            if time.monotonic() > end:
                raise Refused(f"the command took longer than {seconds:.0f} s: raise `limit_s` in devices.yaml")
        while open_ and self._pass_on(line, last=True):
            pass
        return self.child.returncode

    def kill(self) -> None:
        """All its processes, where some are left."""
        with contextlib.suppress(OSError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def _pass_on(self, line: Line, last: bool = False) -> bool:
        """Send on what the command has said by now; whether there may be more."""
        if not select.select([self.said], [], [], 0)[0]:
            return not last
        text = os.read(self.said, CHUNK)
        if text:
            line.send({"said": text.decode("utf-8", "replace")})
        return bool(text)


def die_with_parent() -> None:
    """Let the kernel kill the command where this process is killed (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
