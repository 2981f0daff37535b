"""Fixtures: machines on the loopback."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import loopback
import pytest
from loopback import Keys, Machine

NO_SSHD = "needs OpenSSH's client and server (Debian: apt-get install openssh-client openssh-server)"
ALL = ("numpy", "click", "onnxruntime")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "machine" in getattr(item, "fixturenames", ()) and not loopback.THERE:
            item.add_marker(pytest.mark.skip(reason=NO_SSHD))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def python_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``python_with("numpy", "click")`` gives a Python of its own in which these packages alone are installed."""
    made: dict[tuple[tuple[str, ...], str], Path] = {}

    def make(*packages: str, begins_with: str = "") -> Path:
        key = packages, begins_with
        if key not in made:
            made[key] = loopback.python_with(tmp_path_factory.mktemp("python"), *packages, begins_with=begins_with)
        return made[key]

    return make


@pytest.fixture
def machine(
    keys: Keys, python_with: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Machine]]:
    """``machine()`` starts a server; it ends with the test."""
    monkeypatch.setenv("PATH", f"{keys.folder / 'bin'}:{os.environ['PATH']}")
    with ExitStack() as running:
        count = iter(range(100))

        def start(packages: tuple[str, ...] = ALL, *, begins_with: str = "", **more) -> Machine:
            folder, python = tmp_path / f"machine {next(count)}", python_with(*packages, begins_with=begins_with)
            return running.enter_context(loopback.serving(folder, keys, python, **more))

        yield start
