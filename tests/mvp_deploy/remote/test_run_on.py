"""run --on and gates of devices: columns in the reports, exit codes, and devices that are away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from mvp_deploy.cli import main
from mvp_deploy.latency import files
from mvp_deploy.remote.measured import kept


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank, deploy.yaml and what running it gave."""
    folder = tmp_path_factory.mktemp("pipeline")
    make = ["bank", "init", str(folder / "bank"), "--backbone", "test_resnet", "--image-size", "32"]
    assert CliRunner().invoke(main, make).exit_code == 0
    config = {
        "bank": "bank", "device": "cpu", "budget": {"fraction": 0.5, "of": "units"},
        "training": {"steps": 2, "batch_size": 16},
        "benchmark": {"duration": 0.05, "threads": 1}, "tasks": {"ones": {"data": "digits#1,8,9"}},
    }  # fmt: skip
    (folder / "deploy.yaml").write_text(yaml.safe_dump(config))
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str):
    monkeypatch.chdir(folder)
    return CliRunner().invoke(main, ["run", "-q", *arguments])


def test_devices_are_columns_gates_and_exit_codes(machine, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = machine()
    gone = {"address": "127.0.0.1", "port": 1, "python": "python3"}
    (finished / "devices.yaml").write_text(yaml.safe_dump({"pi": there.entry, "gone": gone}))

    done = run(finished, monkeypatch, "--on", "gone", "--set", "gates.pi={latency_ms: 100000}")
    assert done.exit_code == 7, done.output
    report = json.loads((finished / "deploy" / "report.json").read_text())["tasks"]["ones"]
    assert [(gate["gate"], gate["outcome"]) for gate in report["gates"]] == [
        ("device", "not measured"), ("pi: latency", "met"),
    ]  # fmt: skip
    assert "gone not measured" in done.output

    done = run(finished, monkeypatch, "--on", "gone,pi", "--allow-missing", "--set", "gates.pi={speed_up: 100000}")
    assert done.exit_code == 4, done.output

    there.stop()  # what was measured in the same way is kept: the device is not asked again, or it is away
    done = run(finished, monkeypatch, "--on", "gone,pi", "--allow-missing")
    assert done.exit_code == 0, done.output
    summary = (finished / "deploy" / "summary.md").read_text()
    assert "| model | batch |" in summary
    assert "gone" in summary
    assert "on devices" in (finished / "deploy" / "report.html").read_text()
    assert set(kept(finished / "deploy" / "bundles" / "ones")) <= {"pi"}


def test_a_device_that_a_task_is_pruned_for_and_that_is_away_is_told(
    machine, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work."""
    monkeypatch.delattr(files, "make_pieces")
    gone = {"address": "127.0.0.1", "port": 1, "python": "python3"}
    (finished / "devices.yaml").write_text(yaml.safe_dump({"gone": gone}))
    done = run(finished, monkeypatch, "--allow-missing", "--set", "time={latency_ms: 4, profile: gone}")
    assert done.exit_code == 7, done.output
    assert "reached (ssh: connect to host 127.0.0.1 port 1" in done.output


def test_a_slip_in_a_gate_is_no_device(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(finished, monkeypatch, "--set", "gates.max_dropp=0.1")
    assert done.exit_code == 2
    assert "did you mean max_drop?" in done.output
