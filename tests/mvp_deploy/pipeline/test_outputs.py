"""What a run gives to others: equal bundles, signatures, precisions, engines told of, results in MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.bundle import tiny_bundle

from mvp_deploy import bundle
from mvp_deploy.base.errors import EnvironmentMissing, ExitCode
from mvp_deploy.pipeline import tracking
from mvp_deploy.pipeline.run import orphans
from mvp_deploy.pipeline.tracking import Store


def timeless(value: Any) -> Any:
    """JSON without the seconds that things took."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key != "seconds"}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def test_disturbed_times_are_tagged_and_not_logged() -> None:
    row = {"model": "pruned", "precision": "fp32", "runtime": "onnxruntime CPU", "batch": 1, "speed_up": None}
    times = {"environment": {"cores": 2, "others": 0.0}, "rows": [row | {"timing": {"median": {"value": 2.0}}}]}
    busy = times | {"environment": {"cores": 2, "others": 1.0}}
    assert tracking.metrics({"times": times}) == {"pruned.fp32.onnxruntime_CPU.batch1.median_ms": 2.0}
    assert tracking.metrics({"times": busy}) == {}
    assert (tracking.tags({"times": busy}), tracking.tags({"times": times})) == ({"times": "disturbed"}, {})


def test_bundles_of_tasks_that_were_taken_out_are_named(tmp_path: Path) -> None:
    for name in ("dogs", "cats"):
        tiny_bundle(tmp_path / "bundles" / name, ["fp32"])
    (tmp_path / "bundles" / "mine").mkdir()
    assert orphans(tmp_path, {"dogs": None}) == [tmp_path / "bundles" / "cats"]
    assert orphans(tmp_path / "new", ()) == []


def test_equal_inputs_give_equal_bundles_to_the_bit_but_for_times(run) -> None:
    assert run("--only", "ones", "--set", "out=again").exit_code == 0
    first, second = (Path(out, "bundles/ones") for out in ("deploy", "again"))
    names = {file.relative_to(first) for file in first.rglob("*") if file.is_file()}
    assert names == {file.relative_to(second) for file in second.rglob("*") if file.is_file()}
    timed = {Path("measurements.json"), Path("bundle.json"), Path("manifest.json")}
    for name in names - timed:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    infos = [timeless(json.loads((folder / "bundle.json").read_text())) for folder in (first, second)]
    assert infos[0] == infos[1]


def test_every_precision_and_target_asked_for_is_checked_timed_and_bundled(run) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    asked = ["export.precisions=[fp32, fp16, int8]", "export.targets=[onnx, openvino]", "export.max_drop=1.0"]
    asked += ["gates.speed_up=[{at_least: 0.001, precision: int8, runtime: openvino}]"]
    asked += ["training.steps=60"]  # a random net that has learnt nothing loses to rounding
    done = run("--only", "ones", *(part for change in asked for part in ("--set", change)))
    assert done.exit_code in (0, ExitCode.LATENCY), done.output  # so short a benchmark may be too noisy to tell
    report = json.loads(Path("deploy/report.json").read_text(encoding="utf-8"))["tasks"]["ones"]
    wanted = {(precision, "onnx") for precision in ("fp32", "fp16", "int8")}
    wanted |= {(precision, "openvino") for precision in ("fp32", "int8")}  # it delivers no fp16, and says so
    assert "openvino does not deliver fp16" in done.stderr
    assert {(model["precision"], model["target"]) for model in report["models"]} == wanted
    assert len([row for row in report["times"]["rows"] if row["timing"]]) == 2 * len(wanted)
    assert [gate["subject"] for gate in report["gates"]] == ["pruned int8 openvino CPU batch 1"]
    found = bundle.read(Path("deploy/work/ones/exported"))
    assert found.info["calibration"]["sha256"]


def test_where_no_engine_can_be_built_that_is_said(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mvp_deploy.export import engines

    def refuse(*args: object, **named: object) -> None:

        raise EnvironmentMissing("there is no GPU")

    monkeypatch.setattr(engines, "probe", refuse)
    done = run(
        *("--only", "ones", "--set", "export.targets=[onnx, tensorrt]"),
        *("--set", "gates.latency=[{at_most_ms: 9, runtime: tensorrt}]"),
    )
    assert done.exit_code == ExitCode.LATENCY
    assert "ones: No TensorRT engine was built or timed: there is no GPU" in done.stderr
    assert "not measured" in done.stderr
    for name in ("report.html", "summary.md"):
        assert "No TensorRT engine was built or timed" in Path("deploy", name).read_text(encoding="utf-8")


def test_bundles_are_signed_and_signed_again_with_another_key(run, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="the extra signing is not installed")
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    from mvp_deploy.bundle import signing

    for name in ("first", "second"):
        key = ec.generate_private_key(ec.SECP256R1())
        form = (pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        Path(f"{name}.pem").write_bytes(private)
        Path(f"{name}.pub").write_bytes(key.public_key().public_bytes(*form))
        assert run("--sign-key", f"{name}.pem").exit_code == 0
        signing.verify(Path("deploy/bundles/ones"), Path(f"{name}.pub"))
        assert run("--sign-key", f"{name}.pem", "--json").stdout.count('"unchanged"') == 8
    assert run("--sign-key", "nowhere.pem").exit_code == ExitCode.INPUT


def test_results_that_cannot_be_delivered_hide_nothing_else(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvp_deploy.pipeline.tracking.Store.open", lambda uri: Store(None, ""))
    done = run("--mlflow", "somewhere", "--set", "tasks.ones.gates.min_accuracy=1.0")
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert "ones: min_accuracy" in done.stderr
    assert "MLflow did not take the results" in done.stderr
    assert Path("deploy/report.html").exists()


def test_engines_are_built_once_timed_and_not_bundled(run, install, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    install("10.3.0")  # a stand-in that computes what the real one would
    asked = ["--only", "ones", "--set", "export.targets=[onnx, tensorrt]"]
    asked += ["--set", "gates.latency=[{at_most_ms: 1000, runtime: tensorrt}]"]
    done = run(*asked)
    assert done.exit_code == 0, done.output
    rows = json.loads(Path("deploy/report.json").read_text(encoding="utf-8"))["tasks"]["ones"]["times"]["rows"]
    timed = {row["runtime"]: row["speed_up"] for row in rows if row["model"] == "pruned"}
    assert any("tensorrt" in runtime.lower() and gain for runtime, gain in timed.items())
    assert not Path("deploy/bundles/ones/built").exists()
    assert run(*asked, "--json").stdout.count('"unchanged"') == 4
