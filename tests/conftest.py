"""Makes ``tests/`` importable (``from fakes …``), and says why tests marked gpu do not run here.

One thread for each process, unless OMP_NUM_THREADS says otherwise: the nets are tiny, and with several workers
(``-n 2``) more threads than cores only wait for each other, at ten times the CPU time. Set before torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from mvp_deploy.exporters import cuda
from mvp_deploy.exporters.errors import MvpError

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
    """Benchmarks take the machine for a quiet one and time in this process: tests ask for no real times."""
    from mvp_deploy.benchmark import looks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "other_work", lambda: nullcontext([0.0]))
        patch.setattr(looks, "apart", lambda function, *arguments: function(*arguments))
        yield


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """``install(version, gpu)`` puts a stand-in TensorRT on a stand-in GPU in the place of the real ones."""
    from fakes import tensorrt

    monkeypatch.setattr(cuda, "_library", cuda._library)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # not installed, whatever this machine has
    yield tensorrt.install
    cuda._driver.cache_clear()
