"""What to time: plain values; needs the standard library alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mvp_deploy.base.bounds import BATCH, DURATION, THREADS
from mvp_deploy.base.settings import Settings, setting


@dataclass(frozen=True)
class Timed(Settings):
    """How to measure latency."""

    batches: tuple[Annotated[int, BATCH], ...] = setting((1,), "Batch sizes; none: nothing is timed.")
    duration: Annotated[float, DURATION] = setting(
        3.0, "Seconds of timed runs per model and batch size, over all processes."
    )
    threads: Annotated[int, THREADS] | None = setting(None, "CPU threads of each runtime; one per core by default.")
