"""Pieces of work on a Ray cluster: Ray places them, repeats those whose worker is lost, and brings back what they give.

All machines must see the same folders under the same names. Needs the extra ``ray``.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mvp_deploy.base.errors import EnvironmentMissing, MvpError
from mvp_deploy.base.reporter import Named, Reporter, quarters

T = TypeVar("T")

RETRIES = 3  # of a piece whose worker or machine was lost; what its own code raises is final
PATIENCE = 0.5  # seconds between looks at what workers tell


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what one piece of work takes of it."""

    address: str  # auto, HOST:PORT or ray://HOST:PORT
    cpus: float = 1
    gpus: float = 0  # a fraction lets pieces share a GPU: 0.25 lets four


def spread(
    cluster: Cluster, pieces: Mapping[str, Callable[[Reporter], T]], reporter: Reporter
) -> Iterator[tuple[str, T | MvpError]]:
    """Do all pieces on the cluster; gives each one's name and result, or the error that ended it, as they come.

    Each runs in the working directory of this process, and reports here, under its name. A
    piece whose worker is lost is done again, so it must go on from what it has written, or start over.

    Raises:
        MvpError: (ENVIRONMENT) no Ray here, or no cluster at the address.
    """
    ray = _connect(cluster, reporter)
    again: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1}
    journal = ray.remote(num_cpus=0, **again)(_Journal).remote()
    call = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=RETRIES)(_call)
    here = Path.cwd()
    names = {call.remote(piece, here, _Distant(journal, name)): name for name, piece in pieces.items()}
    waiting = list(names)
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE)
        for name, kind, text in ray.get(journal.take.remote()):
            getattr(Named(reporter, name), kind)(text)
        for reference in ready:
            try:
                yield names[reference], ray.get(reference)
            except ray.exceptions.RayError as error:
                yield names[reference], _lost(error)


def _connect(cluster: Cluster, reporter: Reporter) -> Any:
    """The package ray, connected."""
    try:
        import ray
    except ImportError as error:
        raise EnvironmentMissing("--ray needs the package ray: pip install 'mvp-deploy[ray]'.") from error
    if not ray.is_initialized():
        try:
            _knock(cluster.address)
            ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # OSError, ValueError, RuntimeError, by what is wrong with the address
            raise EnvironmentMissing(
                f"there is no Ray cluster at {cluster.address} ({error}): start one with `ray start --head`.",
            ) from error
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(m.get("CPU", 0) >= cluster.cpus and m.get("GPU", 0) >= cluster.gpus for m in machines):
        reporter.warn(
            f"no machine of the cluster has {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs: waiting until one joins"
        )
    return ray


def _knock(address: str) -> None:
    """Raise OSError if nobody answers: Ray itself would go on trying for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _call(piece: Callable[[Reporter], T], folder: Path, reporter: _Distant) -> T | MvpError:
    """What a worker does. It is a process of its own, so its working directory may be changed."""
    try:
        if not folder.is_dir():
            raise EnvironmentMissing(
                f"{platform.node()} does not see {folder}: all machines of the cluster must share the folders of a "
                "run (config, bank, data, out).",
            )
        os.chdir(folder)
        return piece(reporter)
    except MvpError as error:
        return error
    finally:
        reporter.flush()


def _lost(error: Exception) -> MvpError:
    told = (str(error).strip().splitlines() or [""])[-1]
    return MvpError(f"it ended on the cluster with {type(error).__name__}: {told} A new call goes on from there.")


class _Journal:
    """An actor that keeps what workers tell until it is asked for."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def note(self, name: str, kind: str, text: str) -> None:
        self.told.append((name, kind, text))

    def flush(self) -> None:
        """Comes after what the same worker has told before."""

    def take(self) -> list[tuple[str, str, str]]:
        taken, self.told = self.told, []
        return taken


@dataclass(frozen=True)
class _Distant:
    """A worker's reporter: it writes into the journal."""

    journal: Any
    name: str

    def say(self, text: str) -> None:
        self.journal.note.remote(self.name, "say", text)

    def warn(self, text: str) -> None:
        self.journal.note.remote(self.name, "warn", text)

    def flush(self) -> None:
        """Wait until all is written: what comes after the result, nobody reads."""
        import ray

        ray.get(self.journal.flush.remote())

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., Any]]:
        """Lines: bars of many workers would write over each other."""
        yield quarters(lambda done, total, loss: self.say(f"{label}: {done}/{total}"))
