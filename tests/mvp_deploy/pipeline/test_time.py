"""deploy.yaml asks for milliseconds, by a profile that was measured before."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from fakes.profiles import blocks_of, profile_by

from mvp_deploy.bank.store import Bank
from mvp_deploy.base.errors import ExitCode
from mvp_deploy.pruning.original import Original

Run = Callable[..., Result]


@pytest.fixture
def board(project: Path) -> Path:
    """The profile of another machine, in the project."""
    bank = Bank.open(project / "bank")
    original = Original.create(bank.backbone, bank.state(), 3)
    profile = profile_by(original.model, original.structure, blocks_of(8))
    file = project / "board.json"
    file.write_text(json.dumps(asdict(profile)), encoding="utf-8")
    return file


def test_a_task_is_pruned_to_a_time_and_again_when_its_profile_changes(project: Path, run: Run, board: Path) -> None:
    config = yaml.safe_load((project / "deploy.yaml").read_text())
    config["tasks"]["ones"]["time"] = {"speed_up": 1.5, "profile": "board.json"}
    (project / "deploy.yaml").write_text(yaml.safe_dump(config))
    done = run("--only", "ones")
    assert done.exit_code == 0, done.output
    info = json.loads((project / "deploy" / "work" / "ones" / "run" / "run.json").read_text())
    met = info["metrics"]["pruned"]["making"]["latency"]
    assert met["target"] == "1.5 times faster"
    assert met["predicted_ms"] <= met["predicted_full_ms"] / 1.5
    assert "not timed" in done.output
    assert "the time is met as profiled" in done.output
    assert "is shipped" not in done.output
    assert "the time is met with batch 1" not in done.output
    assert planned(run) == "unchanged"
    told = json.loads(board.read_text())
    told["precision"] = "int8"
    for of_its_times in (*told["runs"], *(sample for kernel in told["kernels"] for sample in kernel["samples"])):
        of_its_times["ms"] *= 2
    board.write_text(json.dumps(told))
    told["conditions"]["batch"] = 8
    board.write_text(json.dumps(told))
    assert planned(run) == "to do"
    done = run("--only", "ones")
    assert done.exit_code == 0
    assert "the time is met with batch 8, of which the profile is, and batch 1 is timed" in " ".join(
        done.output.split()
    )
    assert "the time is met in int8, of which the profile is, and fp32 is shipped" in " ".join(done.output.split())
    info = json.loads((project / "deploy" / "work" / "ones" / "run" / "run.json").read_text())
    again = info["metrics"]["pruned"]["making"]["latency"]
    assert again["predicted_full_ms"] > 1.9 * met["predicted_full_ms"]


def planned(run: Run) -> str:
    """What a run would do about pruning."""
    return json.loads(run("--only", "ones", "--dry-run", "--json").stdout)["ones"]["prune"]


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ({"profile": "board.json"}, "give latency_ms or speed_up"),
        ({"profile": "board.json", "latency_ms": 1, "speed_up": 2}, "give latency_ms or speed_up"),
        ({"latency_ms": 0, "profile": "board.json"}, "latency_ms"),
        ({"latency_ms": 4, "profile": "none.json"}, "none.json"),
    ],
)
def test_a_time_that_cannot_be_met_is_refused_before_work(project: Path, run: Run, time: dict, said: str) -> None:
    config = yaml.safe_load((project / "deploy.yaml").read_text())
    config["tasks"]["ones"]["time"] = time
    (project / "deploy.yaml").write_text(yaml.safe_dump(config))
    done = run("--only", "ones")
    assert done.exit_code == ExitCode.INPUT, done.output
    assert said in done.output
