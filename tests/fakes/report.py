"""Times and report.json as a pipeline writes them, without one."""

from __future__ import annotations

from typing import Any

from fakes.run import info

INTERVAL = {"value": 2.0, "low": 1.9, "high": 2.1}
TIMING = {
    "median": INTERVAL, "p50": 2.0, "p90": 2.1, "p95": 2.2, "p99": 2.5, "mean": 2.0, "throughput": 500.0, "runs": 9,
    "windows": [[2.0, 2.1], [1.9]], "stable": True, "parts": {"copy": 0.1},
}  # fmt: skip
MACHINE = {
    "cpu": "EPYC", "cores": 2, "system": "Linux 6 x86_64", "python": "3.11.7", "versions": {"onnx": "1.19"},
    "others": 0.0,
}  # fmt: skip
ROW = {
    "model": "pruned", "precision": "fp32", "runtime": "onnxruntime CPU", "batch": 1, "size": 4_000, "accuracy": 0.9,
    "tested": 20, "baseline": "unpruned fp32", "details": {"threads": "2"}, "timing": TIMING, "speed_up": INTERVAL,
    "parity": 1e-6, "agreement": 1.0, "memory": 10_000, "error": None, "code": 0,
}  # fmt: skip
TIMES = {"environment": MACHINE, "rows": [ROW], "no_engines": None}
MODEL = {
    "file": "models/pruned.fp32.onnx", "model": "pruned", "target": "onnx", "precision": "fp32", "accuracy": 0.9,
    "parity": 1e-6, "tolerance": 1e-3, "params": 10, "macs": 100, "kept": [], "tested": 20, "wrong": [1, 7],
    "bytes": 4_000,
}  # fmt: skip
GATE = {
    "gate": "max_drop", "subject": "pruned fp32 onnx", "value": 0.01, "low": 0.01, "high": 0.01, "limit": 0.02,
    "outcome": "met", "code": 0, "advice": "",
}  # fmt: skip


def report() -> dict[str, Any]:
    """Of one task that met its gates, and of one that failed on the way."""
    run = info()
    found = ("metrics", "images", "classes", "groups", "votes", "recipe", "budget", "seed", "warnings")
    done = [{"step": "prune", "status": "done", "seconds": 1.5}]
    met = {"code": 0, "outcome": "met", "error": None, "steps": done, "gates": [GATE], "data": "digits#0,1"}
    facts = {name: run[name] for name in found} | {"models": [MODEL], "held_out": "0" * 64, "times": TIMES}
    failed = {
        "code": 6, "outcome": "error", "error": "no such device", "steps": [done[0] | {"status": "failed"}],
        "gates": [], "data": "digits#2,3", "bundle": None,
    }  # fmt: skip
    return {
        "schema": 1,
        "code": 6,
        "time": "2026-01-01T00:00:00Z",
        "only": [],
        "environment": {key: value for key, value in MACHINE.items() if key != "others"},
        "gone": ["old"],
        "tasks": {"ones": met | facts | {"bundle": "deploy/bundles/ones"}, "twos": failed},
    }
