"""bench --on: three devices at once, from devices.yaml to a table with a column for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from samples import make_bundle

from mvp_deploy import bundle
from mvp_deploy.cli import main
from mvp_deploy.remote.measured import kept


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "dogs")
    return tmp_path


def inventory(project: Path, **machines) -> None:
    devices = {
        name: {"address": "127.0.0.1", "port": each.port, "python": str(each.python), "threads": 1, "tags": ["desk"]}
        for name, each in machines.items()
    }
    (project / "devices.yaml").write_text(yaml.safe_dump(devices, sort_keys=False))


def bench(*arguments: str):
    return CliRunner().invoke(main, ["bench", "dogs", "--duration", "0.05", *arguments])


def test_three_devices_give_three_columns_and_files_in_the_bundle(machine, project: Path) -> None:
    before = bundle.digest(project / "dogs")
    inventory(project, pi=machine(), orin=machine(), nas=machine(("numpy", "click")))
    done = bench("--on", "desk", "--out", "found.json")
    assert done.exit_code == 6, done.output  # nas has no runtime: its rows say so
    header = next(line for line in done.output.splitlines() if line.startswith("model"))
    assert header.split() == ["model", "batch", "pi", "orin", "nas"]
    assert "onnxruntime is not installed" in done.output
    assert bundle.verify(project / "dogs") == []
    found = kept(project / "dogs")
    assert set(found) == {"pi", "orin", "nas"}
    for name in ("pi", "orin"):
        assert found[name].digest == before == bundle.digest(project / "dogs")
        assert [row.model for row in found[name].times.rows if row.timing] == ["unpruned", "pruned"]
        assert {row.samples for row in found[name].times.rows} == {10}
        assert all(row.details["threads"] == "1" for row in found[name].times.rows)
    assert set(json.loads((project / "found.json").read_text())["devices"]) == {"pi", "orin", "nas"}
