"""Measurements of several machines in one table: what was measured there, and nothing of the workstation's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.report import MACHINE, ROW, TIMES

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import parse
from mvp_deploy.benchmark.compare import Benchmark
from mvp_deploy.benchmark.format import Times
from mvp_deploy.report.devices import Column, Columns
from mvp_deploy.report.merge import merge


def times(**of_row: Any) -> Times:
    return parse(Times, TIMES | {"rows": [ROW | of_row]})


def test_a_device_s_accuracy_is_the_one_measured_there() -> None:
    """The file had 90 % on 20 images where it was made."""
    pi = Column("pi", times(accuracy_here=0.5, samples=10))
    shown = Columns((pi, Column("orin", gap="orin: no runtime")))
    header, rows = shown.table()
    assert header == ["model", "batch", "pi", "orin"]
    assert rows == [["pruned fp32 onnxruntime CPU", "1", "2.000 ms 2.00x", "not measured"]]
    (there, away) = shown.remarks()
    assert "accuracy there at least 50.0% on the 10 samples sent" in there
    assert "90" not in there
    assert away == "orin: no runtime"


def test_what_a_runner_tells_of_itself_is_told_and_need_not_be_complete() -> None:
    cases = (
        ({"threads": "2"}, "2 threads"), ({"threads": "1"}, "1 thread"), ({"runtime": "ort 1"}, "ort 1"), ({}, None),
    )  # fmt: skip
    for details, told in cases:
        found = times(details=details)
        (there,) = Columns((Column("pi", found),)).remarks()
        assert there == "; ".join(filter(None, ("pi: EPYC, Linux 6 x86_64", "2 cores", told)))
        assert str(Benchmark(found.rows, MACHINE)).endswith("; ".join(filter(None, ("EPYC, 2 cores", told))))


def test_without_labels_a_device_has_no_accuracy() -> None:
    (there,) = Columns((Column("pi", times()),)).remarks()
    assert "accuracy" not in there


@pytest.mark.parametrize(("tested", "cell"), [(64, "90.0% (64)"), (None, "90.0%")])
def test_a_benchmark_names_the_accuracy_of_the_export_with_its_images(tested: int | None, cell: str) -> None:
    (row,) = times(tested=tested).rows
    header, _, line, *_ = str(Benchmark((row,), MACHINE)).splitlines()
    assert "accuracy at export" in header
    assert cell in line


def test_a_measurement_is_one_column_and_two_of_one_name_are_told_apart(tmp_path: Path) -> None:
    places = [tmp_path / name / "pi.json" for name in ("a", "b", "c")]
    for place, p50 in zip(places, (1.0, 1.0, 3.0), strict=True):
        place.parent.mkdir()
        timed = ROW["timing"] | {"p50": p50}
        place.write_text(json.dumps(TIMES | {"rows": [ROW | {"timing": timed}]}))
    assert [each.name for each in merge(places).columns] == ["pi", f"pi ({places[2]})"]


def test_a_measurement_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pi.json").write_text(json.dumps({"format": 99, "digest": "0" * 64}))
    with pytest.raises(InputError, match="format is 99"):
        merge([tmp_path / "pi.json"])


def test_a_folder_that_is_not_a_bundle_is_refused_as_that(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a bundle"):
        merge([tmp_path])
