"""A function in a process of its own: its answer, its exception, its death; and no code from the current folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from mvp_deploy.base.errors import ExitCode, MvpError, ParityError
from mvp_deploy.base.processes import apart


def refuse() -> None:
    raise ParityError("no")


def noise() -> str:
    print("this is not the answer")
    return sys.executable


def test_it_gives_the_answer_alone() -> None:
    assert apart(noise) == sys.executable
    assert apart(os.getpid) != os.getpid()


def test_it_raises_what_the_function_raised() -> None:
    with pytest.raises(MvpError, match="no") as error:
        apart(refuse)
    assert error.value.code == ExitCode.PARITY


def test_its_death_is_reported() -> None:
    with pytest.raises(ChildProcessError):
        apart(os._exit, 9)


def forks() -> int | None:
    child = multiprocessing.get_context("fork").Process(target=os.getpid)
    child.start()
    child.join(10)
    code = child.exitcode
    child.kill()
    return code


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_it_forks_ends() -> None:
    assert apart(forks) == 0


def wait(file: Path) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(300)


def waiting(file: Path) -> None:
    """As ``run --jobs`` waits for its tasks."""
    with ThreadPool(1) as pool:
        pool.starmap(apart, [(wait, file)])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="tells by /proc which processes there are")
@pytest.mark.parametrize("parent_ends_by", ["a kill", "Ctrl-C"])
def test_it_ends_with_its_parent_without_a_word(parent_ends_by: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"from test_processes import *\ntry: waiting(Path({str(file)!r}))\nexcept KeyboardInterrupt: pass"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where a shell started the tests with `&` too
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stderr=subprocess.PIPE,
        preexec_fn=hears,
        start_new_session=True,
    ) as parent:
        while not (file.exists() and file.read_text()):
            assert parent.poll() is None
            time.sleep(0.05)
        if parent_ends_by == "Ctrl-C":
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.kill()
        assert parent.communicate(timeout=60)[1] == b""
    child = Path("/proc", file.read_text())
    for _ in range(600):
        if not child.exists() or "zombie" in (child / "status").read_text():
            return
        time.sleep(0.05)
    raise AssertionError("it goes on")


def test_code_in_the_current_folder_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "pickle", "random", "numpy", "mvp_deploy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as in an interactive Python
    assert apart(noise) == sys.executable
    assert not (tmp_path / "ran").exists()
