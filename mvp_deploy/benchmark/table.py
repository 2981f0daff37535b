"""A benchmark as people read it: a table, why rows have no time, and what it was measured on; and as flat records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mvp_deploy.base.progress import plain_table

if TYPE_CHECKING:
    from mvp_deploy.benchmark.compare import Benchmark, Row

COLUMNS = (
    "model", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "speed-up", "accuracy at export", "as PyTorch", "MB",
    "RAM MB", "",
)  # fmt: skip


def text(result: Benchmark) -> str:
    """The benchmark for a terminal."""
    reasons = list(dict.fromkeys(row.error for row in result.rows if row.error))
    table = plain_table(COLUMNS, [_cells(row, reasons, result.disturbed) for row in result.rows])
    why = [f"[{number}] {reason}" for number, reason in enumerate(reasons, 1)]
    long = [
        f"{row.model} {row.precision} at batch {row.batch}: {row.sustained}" for row in result.rows if row.sustained
    ]
    machine = result.environment
    runtimes = sorted({row.ran_in for row in result.rows} - {""})
    where = "; ".join([f"{machine['cpu']}, {machine['cores']} cores", *runtimes])
    return "\n".join([table, *why, *long, "", where])


def record(row: Row) -> dict[str, Any]:
    """A row as flat values; None where something was not measured."""
    time, ratio = row.timing, row.speed_up
    return {
        "model": row.model,
        "precision": row.precision,
        "runtime": row.runtime,
        "batch": row.batch,
        "p50_ms": time and time.p50,
        "p90_ms": time and time.p90,
        "p99_ms": time and time.p99,
        "median_low_ms": time and time.median.low,
        "median_high_ms": time and time.median.high,
        "images_per_second": time and time.throughput,
        "stable": time and time.stable,
        "baseline": row.baseline,
        "speed_up": ratio and ratio.value,
        "speed_up_low": ratio and ratio.low,
        "speed_up_high": ratio and ratio.high,
        "accuracy": row.accuracy,
        "tested": row.tested,
        "parity": row.parity,
        "agreement": row.agreement,
        "accuracy_here": row.accuracy_here,
        "samples": row.samples,
        "file_bytes": row.size,
        "memory_bytes": row.memory,
        "error": row.error,
    }


def _cells(row: Row, reasons: list[str], disturbed: bool) -> list[str]:
    name = " ".join(part for part in (row.model, row.precision, row.runtime) if part)
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.1%}" + (f" ({row.tested})" if row.tested else "")
    same = "" if row.agreement is None else f"{row.agreement:.1%}"
    memory = "" if row.memory is None else f"{row.memory / 1e6:.0f}"
    size = f"{row.size / 1e6:.2f}"
    time = row.timing
    if time is None:
        why = f"failed [{reasons.index(row.error) + 1}]" if row.error in reasons else ""
        return [name, str(row.batch), "", "", "", "", "", accuracy, same, size, memory, why]
    gain = "baseline" if row.speed_up is None else row.speed_up.times
    numbers = [f"{value:.3f}" for value in (time.p50, time.p90, time.p99)]
    remark = "disturbed" if disturbed else "" if time.stable else "not stable"
    return [name, str(row.batch), *numbers, f"{time.throughput:.0f}", gain, accuracy, same, size, memory, remark]
