"""How much memory a model takes: how far a fresh process's peak grows by loading and running it.

In the benchmark's own process the models share an allocator, and one's peak hides the other's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvp_deploy.base.environment import peak_memory, resident_memory
from mvp_deploy.base.processes import apart
from mvp_deploy.benchmark.runner import module_of, open_runner

RUNS = 3


def memory(path: Path, runtime: str, *, batch_size: int, threads: int | None, device: str) -> int | None:
    """Bytes of host memory that loading and running the model adds; None if the system does not tell.

    The runtime's own libraries, loaded before, are not part of it; memory on a GPU is not either.
    """
    try:
        return apart(_growth, str(path), runtime, batch_size, threads, device, quiet=True)
    except Exception:  # whatever a runtime raises: the benchmark itself tells it
        return None


def _growth(path: str, runtime: str, batch_size: int, threads: int | None, device: str) -> int | None:
    module_of(runtime)
    before = resident_memory()
    runner = open_runner(Path(path), runtime, threads=threads, device=device)
    runner.prepare(np.zeros((batch_size, *runner.image_shape), np.float32))
    for _ in range(RUNS):
        runner.run()
    after = peak_memory()
    return None if before is None or after is None else after - before
