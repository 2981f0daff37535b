"""What goes wrong with devices: each time a sentence and an exit code, no hang, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from samples import make_bundle

from mvp_deploy.base.errors import DeviceAway, EnvironmentMissing
from mvp_deploy.base.reporter import Silent
from mvp_deploy.cli import main
from mvp_deploy.remote import connection
from mvp_deploy.remote.doctor import examine
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.session import session

LARGE = np.random.default_rng(0).bytes(6 << 20)
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"  # a disk that is full
OLD_CLOCK = "import time; real = time.time; time.time = lambda: real() - 1e8"
AN_ARM = "import os; found = os.uname_result(('Linux', 'pi', '6.6', '#1', 'aarch64')); os.uname = lambda: found"


def device(machine, **more) -> Device:
    return Device(address="127.0.0.1", **{"port": machine.port, "python": str(machine.python), **more})


@contextmanager
def line_to(port: int, most: int, then: Callable[[socket.socket, socket.socket], None]) -> Iterator[int]:
    """A port that leads to ``port`` until so many bytes have gone there; ``then`` says what happens."""
    server = socket.create_server(("127.0.0.1", 0))
    open_: list[socket.socket] = [server]
    stopped = threading.Event()

    def forward(source: socket.socket, target: socket.socket, left: float) -> None:
        with suppress(OSError):
            while left > 0 and (data := source.recv(1 << 14)):
                if stopped.is_set():
                    return
                target.sendall(data)
                left -= len(data)
            if left <= 0:
                stopped.set()
                then(source, target)
                return
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            open_.extend((near, far))
            threading.Thread(target=forward, args=(near, far, most), daemon=True).start()
            forward(far, near, float("inf"))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        for each in open_:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def drop(near: socket.socket, far: socket.socket) -> None:
    for end in (near, far):
        end.shutdown(socket.SHUT_RDWR)


def hang(near: socket.socket, far: socket.socket) -> None:
    """Nothing more goes either way, and nobody is told."""


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


def test_a_line_that_drops_is_an_error_and_what_arrived_is_not_sent_again(machine, keys) -> None:
    there = machine()
    with line_to(there.port, 3 << 20, drop) as port:
        keys.trust(port)
        with pytest.raises(DeviceAway), session("pi", device(there, port=port), Silent()) as pi:
            pi.send({"large": LARGE})
    wait_until(lambda: not there.processes())
    with session("pi", device(there), Silent()) as pi:
        folder = Path(pi.send({"large": LARGE}))
        assert (folder / "large").read_bytes() == LARGE
        assert pi.moved < len(LARGE) - (1 << 20)
        pi.send({"again": LARGE})
        assert pi.moved < len(LARGE) - (1 << 20)  # nothing more
    with session("pi", device(there), Silent()) as pi:
        pi.send({"large": LARGE})
        assert pi.moved == 0


def test_a_line_that_hangs_is_given_up(machine, keys, monkeypatch: pytest.MonkeyPatch) -> None:
    there = machine()
    monkeypatch.setattr(connection, "SILENCE", 3.0)
    with line_to(there.port, 1 << 20, hang) as port:
        keys.trust(port)
        with (
            pytest.raises(DeviceAway, match="check the network"),
            session("pi", device(there, port=port), Silent()) as pi,
        ):
            pi.send({"large": LARGE})


def test_a_full_disk_is_told_and_not_filled_further(machine) -> None:
    there = machine(begins_with=SMALL_FILES)
    with pytest.raises(EnvironmentMissing, match="free some space"), session("pi", device(there), Silent()) as pi:
        pi.send({"large": LARGE})
    assert not list((there.workdir / "blobs").iterdir())


def test_a_wrong_clock_another_processor_and_another_language_change_nothing(machine) -> None:
    there = machine(
        begins_with=f"{OLD_CLOCK}; {AN_ARM}",
        greeting="Willkommen! Letzte Anmeldung: gestern",
        environment={"LANG": "de_DE.UTF-8", "LANGUAGE": "de"},
    )
    findings = {each.name: each for each in examine("pi", device(there), Silent())}
    assert findings["clock"].state == "broken"
    assert findings["reached"].detail.startswith("aarch64")
    assert findings["runtime"].detail == "onnxruntime"
    assert findings["board"].state == "ok"
    assert findings["pillow"].cure.endswith("-m pip install pillow")


def test_what_a_device_lacks_is_told_with_the_line_to_run(machine, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = machine(("numpy",))
    add = ["devices", "add", "pi", "127.0.0.1", "--port", str(there.port), "--python", str(there.python)]
    assert CliRunner().invoke(main, add).exit_code == 0
    done = CliRunner().invoke(main, ["devices", "doctor", "pi"])
    assert done.exit_code == 6, done.output
    assert f"{there.python} -m pip install click" in done.output
    assert f"{there.python} -m pip install onnxruntime" in done.output
    make_bundle(tmp_path / "dogs")
    done = CliRunner().invoke(main, ["bench", "dogs", "--on", "pi"])
    assert done.exit_code == 6
    assert "lacks click" in done.output


def test_a_device_that_is_not_there_is_exit_code_7_or_a_named_gap(machine, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = machine(trusted=False)  # a host key that nobody has checked is refused
    gone = {"address": "127.0.0.1", "port": 1}
    stranger = {"address": "127.0.0.1", "port": there.port, "python": str(there.python)}
    Path("devices.yaml").write_text(yaml.safe_dump({"gone": gone, "stranger": stranger}))
    make_bundle(tmp_path / "dogs")
    for name in ("gone", "stranger"):
        done = CliRunner().invoke(main, ["bench", "dogs", "--on", name])
        assert done.exit_code == 7, done.output
        assert f"{name} is not reached" in done.output
    done = CliRunner().invoke(main, ["bench", "dogs", "--on", "gone", "--allow-missing"])
    assert done.exit_code == 7  # no device at all is no result


def test_a_python_that_is_not_there_is_told(machine) -> None:
    with (
        pytest.raises(EnvironmentMissing, match="set `python`"),
        session("pi", device(machine(), python="~/no such/python"), Silent()),
    ):
        pass


def test_two_runs_on_one_machine_queue(machine) -> None:
    there = machine()
    with session("pi", device(there), Silent()):
        with pytest.raises(EnvironmentMissing, match="another run"), session("same", device(there, wait_s=0), Silent()):
            pass
        waited: list[float] = []

        def second() -> None:
            with session("same", device(there), Silent()):
                waited.append(time.monotonic())

        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        freed = time.monotonic()
    thread.join()
    assert waited[0] >= freed


@pytest.mark.parametrize("victim", ["workstation", "device"])
def test_a_kill_leaves_neither_lock_nor_process(machine, tmp_path: Path, victim: str) -> None:
    there = machine()
    make_bundle(tmp_path / "dogs")
    entry = {"address": "127.0.0.1", "port": there.port, "python": str(there.python)}
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"pi": entry}))
    call = [sys.executable, "-m", "mvp_deploy", "bench", "dogs", "--on", "pi", "--duration", "600"]
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[3]))
    with subprocess.Popen(call, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as run:
        wait_until(lambda: sum("_serve" in line for line in there.processes()) > 0)  # it is timing
        if victim == "workstation":
            run.kill()
        else:
            agent = next(each for each in pids(there) if b"iter(lambda" in command_line(each))
            os.kill(agent, signal.SIGKILL)
        told = run.communicate(timeout=60)[1]
    assert run.returncode == (7 if victim == "device" else -signal.SIGKILL), told
    assert "Traceback" not in told
    wait_until(lambda: not there.processes())
    with session("pi", device(there, wait_s=0), Silent()) as pi:
        assert not list((there.workdir / "work").iterdir())
        assert pi.send({})


def pids(machine) -> list[int]:
    mark = f"HOME={machine.home}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
