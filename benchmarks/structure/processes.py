"""One process per model, so that a crash, a leak or an endless loop costs one result only."""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def peak_memory_mb() -> float:
    """Most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak_memory() -> None:
    """Let the kernel count this process's peak memory, VmHWM, afresh (Linux)."""
    gc.collect()
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed goes back, so it is not reused unseen
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def memory_mb(field: str) -> float:
    """This process's memory now (field VmRSS) or at most since the last reset (VmHWM), in MB (Linux)."""
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith(field)
    )
    return int(line.split()[1]) / 1024


def run_each(
    script: str,
    names: Iterable[str],
    results: Path,
    limit: int,
    again: bool = False,
    flags: list[str] | None = None,
    complete: Callable[[Result], bool] = lambda _: True,
) -> dict[str, Result]:
    """Run `script --child NAME` for every name without a (complete) result in the file `results`; returns them all.

    A model has `limit` seconds of processor time. The file is written after every model, so a killed run goes on where
    it was.
    """
    from mvp_deploy.base.files import atomic_write

    done: dict[str, Result] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    for name in names:
        if name in done and not again and "failed" not in done[name] and complete(done[name]):
            continue
        done[name] = _run(script, name, limit, flags or [])
        with atomic_write(results) as path:
            path.write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")
        brief = {k: v for k, v in done[name].items() if k in ("failed", "errors", "prunable", "form", "seconds")}
        print(name, json.dumps(brief), flush=True)
    return done


def _run(script: str, name: str, limit: int, flags: list[str]) -> Result:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [sys.executable, script, "--child", name, str(answer), *flags]
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit)),
        )
        if answer.exists():
            return json.loads(answer.read_text(encoding="utf-8")) | {"seconds": time.perf_counter() - start}
    if -ended.returncode in (signal.SIGXCPU, signal.SIGKILL):
        return {"failed": f"no end within {limit} s"}
    return {"failed": f"exit code {ended.returncode}: {(ended.stderr or 'no message')[-300:]}"}


def child(measure: Callable[[str, list[str]], Result]) -> None:
    """Measure the model named on the command line and leave the result, or what went wrong, where the parent looks."""
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    place = sys.argv.index("--child")
    name, answer, *flags = sys.argv[place + 1 :]
    try:
        result = measure(name, flags)
    except Exception as error:
        result = {"failed": f"{type(error).__name__}: {error}"[:600]}
    Path(answer).write_text(json.dumps(result), encoding="utf-8")
