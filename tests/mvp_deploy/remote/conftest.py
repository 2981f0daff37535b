"""Devices that are really reached by ssh: OpenSSH servers on the loopback, each with a home and a Python of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
TOOLS = [SSHD, shutil.which("ssh"), shutil.which("ssh-keygen")]
NO_SSHD = "needs OpenSSH's client and server (Debian: apt-get install openssh-client openssh-server)"
ALL = ("numpy", "click", "onnxruntime")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "machine" in getattr(item, "fixturenames", ()) and not all(TOOLS):
            item.add_marker(pytest.mark.skip(reason=NO_SSHD))


@dataclass
class Machine:
    """One server: where it listens, and the folder that is its home."""

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

    def processes(self) -> list[str]:
        """Command lines of what still runs on it, by the home that their environment names."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes()
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:  # it has ended
                continue
            if f"HOME={self.home}\0".encode() in environment and line:
                found.append(line)
        return found


@dataclass
class Keys:
    """The user's side: keys made on the spot, a known_hosts, and an `ssh` that takes both from a file."""

    folder: Path
    known: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("user", "host"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(make, check=True, timeout=20)
        (self.folder / "bin").mkdir()
        ssh = self.folder / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/config "$@"\n')
        ssh.chmod(0o755)
        (self.folder / "config").write_text(
            f"Host *\n  IdentityFile {self.folder}/user\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/known\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n"
        )

    def trust(self, port: int) -> None:
        with (self.folder / "known").open("a") as file:
            file.write(f"[127.0.0.1]:{port} {(self.folder / 'host.pub').read_text()}")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def python_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``python_with("numpy", "click")`` gives a Python of its own in which these packages alone are installed."""
    made: dict[tuple[tuple[str, ...], str], Path] = {}

    def make(*packages: str, begins_with: str = "") -> Path:
        """begins_with: code that this Python runs first, always."""
        key = packages, begins_with
        if key not in made:
            folder = tmp_path_factory.mktemp("python")
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
            site = next(folder.glob("lib/python*/site-packages"))
            for package in packages:
                tops = {Path(file.parts[0]) for file in distribution(package).files or () if file.parts[0] != ".."}
                for top in tops - {Path("__pycache__")}:
                    (site / top).symlink_to(Path(str(distribution(package).locate_file(top))))
            if begins_with:
                (site / "begin.py").write_text(begins_with)
                (site / "begin.pth").write_text("import begin\n")
            made[key] = folder / "bin" / "python"
        return made[key]

    return make


@pytest.fixture
def machine(
    keys: Keys, python_with: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Machine]]:
    """``machine()`` starts a server; it ends with the test."""
    monkeypatch.setenv("PATH", f"{keys.folder / 'bin'}:{os.environ['PATH']}")
    running: list[Machine] = []

    def start(
        packages: tuple[str, ...] = ALL,
        *,
        begins_with: str = "",
        greeting: str = "",
        trusted: bool = True,
        environment: dict[str, str] | None = None,
    ) -> Machine:
        folder = tmp_path / f"machine {len(running)}"
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
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it where root starts it
        log = (folder / "log").open("wb")
        server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)

        def stop() -> None:
            server.kill()
            server.wait()

        found = Machine(folder, port, python_with(*packages, begins_with=begins_with), stop)
        running.append(found)
        if trusted:
            keys.trust(port)
        until(lambda: listens(port))
        return found

    yield start
    for each in running:
        each.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until it holds; a test that waits longer than any machine needs has failed."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)
