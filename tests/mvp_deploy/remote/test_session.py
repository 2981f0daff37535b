"""A session on a device: what travels, what comes back, and what is left."""

from __future__ import annotations

from pathlib import Path

from mvp_deploy.base.errors import ExitCode
from mvp_deploy.base.reporter import Silent
from mvp_deploy.remote.inventory import Device
from mvp_deploy.remote.session import session


def device(machine, **more) -> Device:
    return Device(address="127.0.0.1", port=machine.port, python=str(machine.python), **more)


def test_hello(machine):
    there = machine()
    with session("pi", device(there), Silent()) as pi:
        assert {"numpy", "click", "onnxruntime"} == set(pi.hello.packages)
        folder = Path(pi.send({"a/b.txt": b"hello", "empty": b""}))
        assert (folder / "a" / "b.txt").read_bytes() == b"hello"
        assert folder.is_relative_to(there.home)
        assert pi.run("_there", []) == (ExitCode.INPUT, {})  # nothing was asked of it
    assert not folder.exists()
