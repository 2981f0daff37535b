from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from click.testing import CliRunner
from fakes.bundle import tiny_bundle
from samples import make_bundle, make_onnx

from mvp_deploy.base.errors import ExitCode
from mvp_deploy.base.files import sha256
from mvp_deploy.cli import main

QUICK = ["--duration", "0.1", "--threads", "1"]
DEVICE = (  # what runs on a device that has numpy, click and onnxruntime alone
    "import sys\n"
    "for name in ('torch', 'timm', 'onnx', 'onnxscript', 'rich', 'psutil', 'matplotlib', 'jinja2', 'PIL',\n"
    "             'safetensors', 'filelock', 'torchvision'): sys.modules[name] = None\n"
    "from mvp_deploy.cli import main\n"
    "main(sys.argv[1:])"
)


@pytest.mark.parametrize("command", [["bench", *QUICK], ["verify"]])
def test_bench_and_verify_need_numpy_click_and_onnxruntime_alone(tmp_path: Path, command: list[str]) -> None:
    folder = make_bundle(tmp_path / "b")
    arguments = [sys.executable, "-c", DEVICE, *command, str(folder), "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_the_table_has_a_line_per_model_and_batch(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    done = CliRunner().invoke(main, ["bench", str(folder), "--batch", "1,4", *QUICK])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "onnxruntime CPU" in line]
    assert [line.split()[0] for line in lines] == ["unpruned", "pruned", "unpruned", "pruned"]
    assert "baseline" in lines[0]
    assert "x (" in lines[1]


def test_the_first_of_any_files_is_the_baseline_and_the_result_can_be_kept(tmp_path: Path) -> None:
    files = [str(make_onnx(tmp_path / f"{name}.onnx", width)) for name, width in (("a", 8), ("b", 16), ("c", 4))]
    out = tmp_path / "times.json"
    done = CliRunner().invoke(main, ["bench", *files, "--json", "--out", str(out), *QUICK])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["baseline"] for row in rows] == ["a", "a", "a"]
    assert [row["speed_up"] is None for row in rows] == [True, False, False]
    assert json.loads(out.read_text()) == json.loads(done.stdout)


def test_a_row_that_fails_says_why_and_decides_the_exit_code(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", spoil=True)
    done = CliRunner().invoke(main, ["bench", str(folder), *QUICK])
    assert done.exit_code == ExitCode.PARITY
    assert "failed [1]" in done.stdout
    assert "[1] the logits of" in done.stdout


def test_an_altered_bundle_is_not_timed(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / "labels.json").write_text("[]")
    for command in (["bench", str(folder)], ["verify", str(folder)]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == ExitCode.INPUT
        assert "labels.json is changed" in done.output


def test_a_provider_this_onnxruntime_lacks_is_not_a_run_on_the_cpu(tmp_path: Path) -> None:
    file = str(make_onnx(tmp_path / "a.onnx"))
    done = CliRunner().invoke(main, ["bench", file, "--provider", "cpu", "--provider", "tensorrt", "--json", *QUICK])
    assert done.exit_code == ExitCode.ENVIRONMENT
    here, missing = json.loads(done.stdout)["rows"]
    assert here["timing"]["p50"] > 0
    assert missing["timing"] is None
    assert missing["runtime"] == "onnxruntime tensorrt"
    assert "without TensorrtExecutionProvider: pip" in missing["error"]


def test_a_provider_that_onnxruntime_has_but_cannot_start_is_not_a_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    done = CliRunner().invoke(main, ["bench", str(make_onnx(tmp_path / "a.onnx")), "--provider", "cuda", *QUICK])
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert "could not start it: install the CUDA and cuDNN libraries" in done.output


def test_only_the_asked_runtimes_and_precisions_of_a_bundle_are_timed(tmp_path: Path) -> None:
    folder = str(make_bundle(tmp_path / "b"))
    done = CliRunner().invoke(main, ["bench", folder, "--runtime", "onnxruntime", "--precision", "fp32", *QUICK])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ["bench", folder, "--precision", "int8", *QUICK])
    assert done.exit_code == ExitCode.INPUT
    assert "there are onnxruntime fp32" in done.output


@pytest.mark.parametrize("batch", ["0", "a", "1,-2"])
def test_wrong_batch_sizes_are_usage_errors(tmp_path: Path, batch: str) -> None:
    done = CliRunner().invoke(main, ["bench", str(make_onnx(tmp_path / "a.onnx")), "--batch", batch])
    assert done.exit_code == ExitCode.INPUT


@pytest.mark.parametrize(
    ("field", "value"), [("file", "../outside.onnx"), ("file", "/outside.onnx"), ("tolerance", 1e9)]
)
def test_a_bundle_that_says_what_no_bundle_may_is_not_called_whole(tmp_path: Path, field: str, value: object) -> None:
    """Its manifest was made anew to fit, so no checksum tells."""
    path = tiny_bundle(tmp_path / "b", ["fp32"])
    info, manifest = (
        json.loads((path / name).read_text(encoding="utf-8")) for name in ("bundle.json", "manifest.json")
    )
    info["models"][0][field] = value
    (path / "bundle.json").write_text(json.dumps(info), encoding="utf-8")
    file = path / "bundle.json"
    manifest["files"]["bundle.json"] = {"sha256": sha256(file), "bytes": file.stat().st_size}
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    result = CliRunner().invoke(main, ["verify", str(path)])
    assert result.exit_code == 2
    assert "is whole" not in result.output
