from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes.models import classifier

from mvp_deploy.cli import main
from mvp_deploy.exporters.errors import ExitCode


def test_findings_are_shown_with_node_reason_cure_and_releases(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["check", str(classifier(tmp_path / "a.onnx", channels=18, opset=18))])
    assert done.exit_code == 0  # some release reads it
    assert "error: the file: the file uses opset 18" in done.output
    assert "(TensorRT 8.5, 8.6)" in done.output
    assert "warning: Conv node 'conv' (3 to 18 channels) and 1 more: channels that are no multiple of 8" in done.output
    assert "cure: prune with --round-to 8" in done.output
    assert "a.onnx is read by TensorRT 10.3, 10.12, 10.16, 11.4." in done.output


def test_a_file_that_no_release_reads_is_exit_code_2(tmp_path: Path) -> None:
    path = str(classifier(tmp_path / "a.onnx", opset=18))
    done = CliRunner().invoke(main, ["check", path, "--for", "tensorrt-8.6.1", "--json"])
    assert done.exit_code == ExitCode.INPUT
    told = json.loads(done.stdout)
    assert told["read_by"] == []
    assert [(finding["severity"], finding["releases"]) for finding in told["findings"]] == [("error", ["8.6"])]


@pytest.mark.parametrize("runtime", ["openvino", "tensorrt-7.0", "tensorrt-x"])
def test_other_runtimes_are_refused(tmp_path: Path, runtime: str) -> None:
    done = CliRunner().invoke(main, ["check", str(classifier(tmp_path / "a.onnx")), "--for", runtime])
    assert done.exit_code == ExitCode.INPUT
