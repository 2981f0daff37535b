"""Makes ``tests/`` importable (``from fakes …``), and says why tests marked gpu do not run here.

One thread for each process, unless OMP_NUM_THREADS says otherwise: the nets are tiny, and with several workers
(``-n 2``) more threads than cores only wait for each other, at ten times the CPU time. Set before torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.errors import MvpError

if TYPE_CHECKING:
    import numpy as np

    from mvp_deploy.benchmark.measure import Session, Settings
    from mvp_deploy.benchmark.runner import Runner

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    try:
        cuda.select()
    except MvpError as error:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session", autouse=True)
def quiet() -> Iterator[None]:
    """Benchmarks take the machine for a quiet one, time in this process and soon: tests ask for no real times."""
    from mvp_deploy.benchmark import looks, measure

    def soon(runners: Sequence[Runner], batch: np.ndarray, settings: Settings, **named: int) -> list[Session]:
        return measure.session(runners, batch, replace(settings, duration=0.1, window=0.005, warm_up=0.005), **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "other_work", lambda: nullcontext([0.0]))
        patch.setattr(looks, "apart", lambda function, *arguments: function(*arguments))
        patch.setattr(looks, "session", soon)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers (``-n 2``) have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def translated(shared: Path) -> Iterator[None]:
    """See tests/translated.py; ``inspect.unwrap(onnx._translate)`` is the way round it."""
    from translated import once

    from mvp_deploy.exporters import onnx

    folder = shared / "translated"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_translate", once(onnx._translate, folder))
        yield


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """``install(version, gpu)`` puts a stand-in TensorRT on a stand-in GPU in the place of the real ones."""
    from fakes import tensorrt

    monkeypatch.setattr(cuda, "_library", cuda._library)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # not installed, whatever this machine has
    yield tensorrt.install
    cuda._driver.cache_clear()
