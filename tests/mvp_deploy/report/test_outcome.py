"""The three lines that a user reads first, on a bundle whose numbers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvp_deploy.bundle import Bundle, ModelFile
from mvp_deploy.report.outcome import outcome


def file(model: str, precision: str, wrong: tuple[int, ...], target: str = "onnx") -> ModelFile:
    suffix = ".xml" if target == "openvino" else ".onnx"
    accuracy = 1 - len(wrong) / 100
    return ModelFile(
        f"{model}-{target}-{precision}{suffix}", model, target, precision, accuracy, 0.0, 0.0, 10, 10,
        tested=100, wrong=wrong,
    )  # fmt: skip


def row(model: str, precision: str, milliseconds: float, runtime: str = "onnxruntime CPU") -> dict[str, Any]:
    median = {"value": milliseconds, "low": milliseconds * 0.9, "high": milliseconds * 1.1}
    return {"model": model, "precision": precision, "runtime": runtime, "batch": 1, "timing": {"median": median}}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    files = (
        file("unpruned", "fp32", (1, 2)),
        file("unpruned", "int8", (1, 2, 3)),
        file("pruned", "fp32", (1, 2, 3)),
        file("pruned", "int8", (1, 2, 3, 4)),
    )
    for number, each in enumerate(files):
        (tmp_path / each.file).write_bytes(b"x" * 1_000_000 * (4 - number))
    return Bundle(tmp_path, {"task": {"images": {"train": 10, "test": 100}}}, ("a", "b"), files)


def test_what_one_had_in_fp32_beside_the_fastest_that_ships(bundle: Bundle) -> None:
    rows = [row("unpruned", "fp32", 6.0), row("pruned", "fp32", 4.0), row("pruned", "int8", 2.0)]
    assert outcome(bundle, {"rows": rows}).lines == (
        "accuracy  98.0 % before, 96.0 % after (-2.0 points, -5.8 to +1.9; 100 held-out images)",
        "latency   6.00 ms before (fp32), 2.00 ms after (onnx int8), batch 1: 3.00 times as fast (2.45 to 3.67)",
        "size      4.00 MB before, 1.00 MB after (25%)",
    )


def test_int8_that_is_slower_here_is_not_what_ships(bundle: Bundle) -> None:
    rows = [row("unpruned", "fp32", 6.0), row("pruned", "fp32", 2.0), row("pruned", "int8", 3.0)]
    assert outcome(bundle, {"rows": rows}).after.precision == "fp32"


def test_a_runtime_is_compared_with_itself(bundle: Bundle) -> None:
    more = (file("unpruned", "fp32", (1, 2), "openvino"), file("pruned", "int8", (1, 2), "openvino"))
    for each in more:
        (bundle.path / each.file).write_bytes(b"x")
        (bundle.path / each.file).with_suffix(".bin").write_bytes(b"x" * 499_999)
    rows = [
        row("unpruned", "fp32", 6.0), row("pruned", "int8", 2.0),
        row("unpruned", "fp32", 4.0, "openvino CPU"), row("pruned", "int8", 1.0, "openvino CPU"),
    ]  # fmt: skip
    found = outcome(replace(bundle, models=(*bundle.models, *more)), {"rows": rows})
    assert found.times
    assert (found.times[0].value, found.times[1].value) == (4.0, 1.0)
    assert found.sizes == (500_000, 500_000)


def test_without_times_nothing_is_said_of_speed(bundle: Bundle) -> None:
    assert outcome(bundle, None).lines[1] == "latency   not measured; what ships is onnx int8"
