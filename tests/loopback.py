"""Devices that are really reached by ssh: OpenSSH servers on the loopback, each with a home and a Python of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
SSH = shutil.which("ssh")
THERE = all([SSHD, SSH, shutil.which("ssh-keygen")])


@dataclass(frozen=True)
class Keys:
    """The user's side: keys made on the spot, a known_hosts, and in ``bin`` an `ssh` that takes both from a file."""

    folder: Path

    @staticmethod
    def make(folder: Path) -> Keys:
        for name in ("user", "host"):
            call = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(call, check=True, timeout=20)
        (folder / "bin").mkdir()
        ssh = folder / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {SSH} -F {folder}/config "$@"\n', encoding="utf-8")
        ssh.chmod(0o755)
        (folder / "config").write_text(
            f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n",
            encoding="utf-8",
        )
        return Keys(folder)

    def trust(self, port: int) -> None:
        with (self.folder / "known").open("a", encoding="utf-8") as file:
            file.write(f"[127.0.0.1]:{port} {(self.folder / 'host.pub').read_text(encoding='utf-8')}")


@dataclass(frozen=True)
class Machine:
    """One server: where it listens, and the folder that has its home."""

    folder: Path
    port: int
    python: Path
    stop: Callable[[], None]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def workdir(self) -> Path:
        return self.home / ".cache" / "mvp-deploy-device"

    @property
    def entry(self) -> dict[str, object]:
        """Of devices.yaml."""
        return {"address": "127.0.0.1", "port": self.port, "python": str(self.python)}

    def pids(self) -> dict[int, str]:
        """What runs on it, by the home that its environment names: process ids and command lines."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes()
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:  # it has ended
                continue
            if f"HOME={self.home}\0".encode() in environment and line:
                found[int(process.name)] = line
        return found

    def processes(self) -> list[str]:
        return list(self.pids().values())


def python_with(folder: Path, *packages: str, begins_with: str = "") -> Path:
    """A Python of its own in the folder in which these packages alone are installed: this one, or DEVICE_PYTHON.

    begins_with: code that it runs first, always.
    """
    python = os.environ.get("DEVICE_PYTHON", sys.executable)
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    tell = "import json, sys; print(json.dumps(sys.path))"
    path = json.loads(subprocess.run([python, "-c", tell], capture_output=True, check=True).stdout)
    site = next(folder.glob("lib/python*/site-packages"))
    for package in packages:
        found = next(iter(Distribution.discover(name=package, path=path)))
        tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        for top in tops:
            (site / top).symlink_to(Path(str(found.locate_file(top))))
    if begins_with:
        (site / "begin.py").write_text(begins_with, encoding="utf-8")
        (site / "begin.pth").write_text("import begin\n", encoding="utf-8")
    return folder / "bin" / "python"


@contextmanager
def serving(
    folder: Path,
    keys: Keys,
    python: Path,
    *,
    greeting: str = "",
    trusted: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Machine]:
    """A server in a folder of its own, for as long as the context.

    greeting: what a login prints first. environment: of everything that runs there.
    """
    (folder / "home").mkdir(parents=True)
    (folder / "tmp").mkdir()
    port = free_port()
    settings = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), **(environment or {})}
    lines = [
        f"Port {port}", "ListenAddress 127.0.0.1", "PidFile none", "StrictModes no", "UsePAM no",
        "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PrintMotd no",
        f"HostKey {keys.folder}/host", f"AuthorizedKeysFile {keys.folder}/user.pub",
        "SetEnv " + " ".join(f'"{key}={value}"' for key, value in settings.items()),
    ]  # fmt: skip
    if greeting:
        login = folder / "login"
        login.write_text(f"#!/bin/sh\nprintf '%s\\n' '{greeting}'\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"\n")
        login.chmod(0o755)
        lines.append(f'ForceCommand "{login}"')
    (folder / "sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it where root starts it
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)

    def stop() -> None:
        server.kill()
        server.wait()

    try:
        if trusted:
            keys.trust(port)
        until(lambda: listens(port))
        yield Machine(folder, port, python, stop)
    finally:
        stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until it holds; a test that waits longer than any machine needs has failed."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)
