"""What goes wrong with devices: each time a sentence and an exit code, no hang, and nothing left behind."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from loopback import until
from samples import make_bundle

from mvp_deploy.base.errors import DeviceAway, EnvironmentMissing
from mvp_deploy.base.reporter import Silent
from mvp_deploy.cli import main
from mvp_deploy.remote import agent, connection
from mvp_deploy.remote.doctor import examine
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.measured import kept
from mvp_deploy.remote.session import session

LARGE = np.random.default_rng(0).bytes(6 << 20)
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"  # a disk that is full
NO_ROOM = "import sys, resource\nif '_there' in str(sys.orig_argv): resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99))"
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


def test_a_line_that_drops_is_an_error_and_what_arrived_is_not_sent_again(machine, keys) -> None:
    there = machine()
    with line_to(there.port, 3 << 20, drop) as port:
        keys.trust(port)
        with pytest.raises(DeviceAway), session("pi", device(there, port=port), Silent()) as pi:
            pi.send({"large": LARGE})
    until(lambda: not there.processes())
    with session("pi", device(there), Silent()) as pi:
        folder = Path(pi.send({"large": LARGE}))
        assert (folder / "large").read_bytes() == LARGE
        assert pi.moved < len(LARGE) - (1 << 20)
        pi.send({"again": LARGE})
        assert pi.moved < len(LARGE) - (1 << 20)  # nothing more
    with session("pi", device(there), Silent()) as pi:
        pi.send({"large": LARGE})
        assert pi.moved == 0


def test_a_line_that_hangs_is_given_up_by_both_ends(machine, keys, monkeypatch: pytest.MonkeyPatch) -> None:
    there = machine()
    monkeypatch.setattr(connection, "SILENCE", 3.0)
    soon = 'sys.modules["mvp_deploy.remote.agent.line"].SILENCE = 3.0\nmodule.serve('
    monkeypatch.setattr(agent, "START", agent.START.replace("module.serve(", soon))
    with line_to(there.port, 1 << 20, hang) as port:
        keys.trust(port)
        with (
            pytest.raises(DeviceAway, match="check the network"),
            session("pi", device(there, port=port), Silent()) as pi,
        ):
            pi.send({"large": LARGE})
        until(lambda: not any("iter(lambda" in line for line in there.processes()))  # nobody has told it
    with session("pi", device(there, wait_s=0), Silent()) as pi:
        assert pi.send({"large": LARGE})


@pytest.mark.parametrize("most", [1 << 12, 1 << 14, 1 << 15, 1 << 18, 1 << 19])
def test_a_line_that_drops_at_any_moment_frees_the_device(
    machine, keys, tmp_path: Path, monkeypatch, most: int
) -> None:
    """While ssh greets, our end is sent, the first requests are asked, the program and the bundle travel."""
    monkeypatch.chdir(tmp_path)
    there = machine()
    make_bundle(tmp_path / "dogs")
    with line_to(there.port, most, drop) as port:
        keys.trust(port)
        Path("devices.yaml").write_text(yaml.safe_dump({"pi": {**there.entry, "port": port}}))
        done = CliRunner().invoke(main, ["bench", "dogs", "--on", "pi"])
    assert done.exit_code == 7, done.output
    assert done.output.startswith("Error: ")
    assert isinstance(done.exception, SystemExit)  # no traceback
    until(lambda: not there.processes())
    with session("pi", device(there, wait_s=0), Silent()) as pi:
        assert not list((there.workdir / "work").iterdir())
        assert pi.send({})


def test_a_full_disk_is_told_and_not_filled_further(machine) -> None:
    there = machine(begins_with=SMALL_FILES)
    with pytest.raises(EnvironmentMissing, match="free some space"), session("pi", device(there), Silent()) as pi:
        pi.send({"large": LARGE})
    assert not list((there.workdir / "blobs").iterdir())


def test_a_disk_that_is_full_when_the_results_are_written_is_told(machine, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = machine(begins_with=NO_ROOM)
    Path("devices.yaml").write_text(yaml.safe_dump({"pi": there.entry}))
    make_bundle(tmp_path / "dogs")
    done = CliRunner().invoke(main, ["bench", "dogs", "--on", "pi", "--duration", "0.05"])
    assert done.exit_code == 6, done.output
    assert done.output.splitlines()[-1].startswith("Error: pi: File too large: check the path")
    assert not (tmp_path / "dogs" / "devices").exists()


STRANGE = {
    "begins_with": f"{OLD_CLOCK}; {AN_ARM}",
    "greeting": "Willkommen! Letzte Anmeldung: gestern",
    "environment": {"LANG": "de_DE.UTF-8", "LANGUAGE": "de"},
}


def test_a_wrong_clock_another_processor_and_another_language_are_seen(machine) -> None:
    findings = {each.name: each for each in examine("pi", device(machine(**STRANGE)), Silent())}
    assert (findings["clock"].state, findings["clock"].detail) == ("broken", "1157 days behind")
    assert findings["reached"].detail.startswith("aarch64")
    assert findings["runtime"].detail == "onnxruntime"
    assert findings["board"].state == "ok"


def test_a_wrong_clock_another_processor_and_another_language_change_no_result(
    machine, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.yaml").write_text(yaml.safe_dump({"pi": machine(**STRANGE).entry}))
    make_bundle(tmp_path / "dogs")
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    done = CliRunner().invoke(main, ["bench", "dogs", "--on", "pi", "--duration", "0.05"])
    assert done.exit_code == 0, done.output
    assert "its clock is" in done.output
    found = kept(tmp_path / "dogs")["pi"]
    assert before <= found.time <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())  # the workstation's
    assert found.times.environment.system.endswith("aarch64")
    assert all(0 < row.timing.p50 < 60_000 for row in found.times.rows if row.timing)


def test_a_python_that_is_too_old_is_told_before_anything_is_sent(machine, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = machine(begins_with="import sys; sys.version_info = (3, 8, 10, 'final', 0)")
    Path("devices.yaml").write_text(yaml.safe_dump({"pi": there.entry}))
    make_bundle(tmp_path / "dogs")
    told = CliRunner().invoke(main, ["devices", "doctor", "pi"])
    assert told.exit_code == 6
    assert "install Python 3.10 or newer there" in told.output
    assert "pip install" not in told.output  # not into that one
    done = CliRunner().invoke(main, ["bench", "dogs", "--on", "pi"])
    assert done.exit_code == 6
    assert "pi has Python 3.8.10, and 3.10 is the oldest that works" in done.output
    assert not list((there.workdir / "blobs").iterdir())


def test_the_devices_end_is_written_for_old_pythons() -> None:
    for name in agent.MODULES:
        ast.parse(Path(agent.__file__).with_name(f"{name}.py").read_text(), feature_version=(3, 6))


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
    Path("devices.yaml").write_text(yaml.safe_dump({"gone": gone, "stranger": there.entry}))
    make_bundle(tmp_path / "dogs")
    for name in ("gone", "stranger"):
        done = CliRunner().invoke(main, ["bench", "dogs", "--on", name])
        assert done.exit_code == 7, done.output
        assert f"{name} is not reached" in done.output
    done = CliRunner().invoke(main, ["bench", "dogs", "--on", "gone", "--allow-missing"])
    assert done.exit_code == 7  # no device at all is no result


@pytest.mark.parametrize("python", ["~/no such/python", "/bin/true"])
def test_what_is_not_a_python_is_told(machine, python: str) -> None:
    with (
        pytest.raises(EnvironmentMissing, match="does not run `python`"),
        session("pi", device(machine(), python=python), Silent()),
    ):
        pass


def test_a_place_that_cannot_be_written_is_told_with_what_to_change(machine) -> None:
    with (
        pytest.raises(EnvironmentMissing, match="set `workdir` in devices"),
        session("pi", device(machine(), workdir="/dev/null/no"), Silent()),
    ):
        pass


def test_a_command_without_end_is_stopped_and_told(machine) -> None:
    there = machine(begins_with="import sys, time\nif '_there' in str(sys.orig_argv): time.sleep(1000)")
    with session("pi", device(there, limit_s=1), Silent()) as pi:
        pi.send({})
        with pytest.raises(EnvironmentMissing, match="longer than 1 s: raise `limit_s`"):
            pi.run("_there", [])
    until(lambda: not there.processes())


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


@pytest.mark.parametrize("victim", ["workstation", "Ctrl-C", "device"])
def test_a_kill_leaves_neither_lock_nor_process(machine, tmp_path: Path, victim: str) -> None:
    there = machine()
    make_bundle(tmp_path / "dogs")
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"pi": there.entry}))
    call = [sys.executable, "-m", "mvp_deploy", "bench", "dogs", "--on", "pi", "--duration", "600"]
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[3]))
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where a shell started the tests with `&` too
    with subprocess.Popen(
        call, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=hears
    ) as run:
        until(lambda: sum("_serve" in line for line in there.processes()) > 0)  # it is timing
        if victim == "workstation":
            run.kill()
        elif victim == "Ctrl-C":
            run.send_signal(signal.SIGINT)
        else:
            agent = next(pid for pid, line in there.pids().items() if "iter(lambda" in line)
            os.kill(agent, signal.SIGKILL)
        told = run.communicate(timeout=60)[1]
    assert run.returncode == {"workstation": -signal.SIGKILL, "Ctrl-C": 130, "device": 7}[victim], told
    assert "Traceback" not in told
    until(lambda: not there.processes())
    with session("pi", device(there, wait_s=0), Silent()) as pi:
        assert not list((there.workdir / "work").iterdir())
        assert pi.send({})
