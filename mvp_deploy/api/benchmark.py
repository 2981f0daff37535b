"""`mvp.benchmark`: how fast a bundle's models are here, or any model files, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvp_deploy import bundle as bundles
from mvp_deploy.api.arguments import check
from mvp_deploy.api.progress import reporter as told
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.benchmark import compare
from mvp_deploy.benchmark.candidates import by_provider, of_bundle, of_files, only
from mvp_deploy.benchmark.measure import Settings
from mvp_deploy.export.engines import engines_of

if TYPE_CHECKING:
    import torch


def benchmark(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    batches: Sequence[int] = (1,),
    *,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = (),
    providers: Sequence[str] = (),
    threads: int | None = None,
    duration: float = 3.0,
    sustained: float | None = None,
    device: torch.device | str = "auto",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> compare.Benchmark:
    """Time models side by side, in turns, in five fresh processes.

    A model is timed only after its outputs agree with PyTorch's on the bundle's samples. One that cannot be timed does
    not stop the others: its row's ``error`` says why, and ``result.failure()`` gives the error to raise.

    Args:
        models: a `Bundle` or its folder; a RUN folder (timed in PyTorch); or model files, the first the baseline.
        batches: images in one call.
        runtimes: only files for these, ``onnxruntime``, ``openvino``, …; all by default.
        precisions: only these of a bundle, ``fp32``, ``fp16``, ``int8``; all by default.
        providers: of ONNX Runtime, ``cpu``, ``cuda`` or ``tensorrt``: a row for each.
        threads: of each runtime on the CPU; one a core by default.
        duration: seconds of timed runs for each model and batch size, in all processes together.
        sustained: seconds that each model is then run without a pause; not at all by default.
        device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device.
        seed: of the noise that bare files are run on.
        reporter: receives messages and progress; by default the one that `mvp_deploy.progress` set.

    Returns:
        A frozen result: print it, read its ``rows``, take ``records()`` or ``to_pandas()``. Latencies are milliseconds,
        speed-ups have a 95 % interval. ``disturbed`` says that other work was in the way, and the times no result.

    Raises:
        MvpError: there is nothing to time, or a batch size or duration that cannot be.

    Examples:
        >>> import mvp_deploy as mvp
        >>> times = mvp.benchmark(bundle_folder, duration=0.05)
        >>> [(row.model, row.batch) for row in times.rows]
        [('unpruned', 1), ('pruned', 1)]
    """
    check(batches=batches, threads=threads, duration=duration, sustained=sustained, seed=seed)
    where, to = str(device), reporter or told()
    if not batches:
        raise InputError("There is nothing to time without a batch size: pass batches=[1], or several.")
    files = [Path(path) for path in ([models] if isinstance(models, (str, os.PathLike)) else models)]
    if len(files) == 1 and bundles.is_bundle(files[0]):
        opened = bundles.read(files[0])
        candidates = of_bundle(opened, engines_of(opened, where))
        if not candidates:
            raise InputError(f"nothing in {files[0]} runs as it is: build its engines with `mvp-deploy build` first.")
    else:
        candidates = of_files(files)
        to.say("Parity is not checked: bare files come without reference outputs.")
    chosen = only(candidates, runtimes, precisions)
    if not chosen:
        there = ", ".join(sorted({f"{each.runtime} {each.precision}".strip() for each in candidates}))
        raise InputError(f"none of the models is for that: there are {there}.")
    return compare.benchmark(
        by_provider(chosen, providers, where),
        tuple(batches),
        Settings(duration=duration),
        threads=threads,
        device=where,
        seed=seed,
        sustained=sustained,
        reporter=to,
    )
