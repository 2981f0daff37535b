"""One small pipeline, really run, that tests copy, so that judging it takes no training; and a made-up clock."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from fakes.clock import in_two_processes
from fakes.profiles import blocks_of, profile_by, wrong
from filelock import FileLock

from mvp_deploy.cli import main
from mvp_deploy.latency import files
from mvp_deploy.latency.format import Conditions, Profile
from mvp_deploy.latency.front import Candidate
from mvp_deploy.pipeline import candidates as making
from mvp_deploy.pruning.recipes import RECIPES

CONFIG: dict[str, Any] = {
    "bank": "bank",
    "device": "cpu",
    "budget": {"fraction": 0.5, "of": "units"},
    "training": {"steps": 2, "batch_size": 16},
    "benchmark": {"duration": 0.2, "threads": 1},
    "tasks": {"ones": {"data": "digits#1,8,9"}, "twos": {"data": "digits#2,3"}},
}

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def finished(shared: Path) -> Path:
    """A folder with bank, deploy.yaml and what running it gave; the first worker to ask makes it for all."""
    folder, part = shared / "pipeline", shared / "pipeline.part"
    with FileLock(shared / "pipeline.lock"):
        if not folder.exists():
            make = ["bank", "init", str(part / "bank"), "--backbone", "test_resnet", "--image-size", "32"]
            assert CliRunner().invoke(main, make).exit_code == 0
            (part / "deploy.yaml").write_text(yaml.safe_dump(CONFIG))
            done = CliRunner().invoke(main, ["run", str(part / "deploy.yaml"), "-q"])
            assert done.exit_code == 0, done.output
            part.rename(folder)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder, as the working directory."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path / "project"


@pytest.fixture
def run(project: Path) -> Run:
    """``run("--set", "gates.max_drop=0")`` runs the project's config again."""
    return lambda *arguments: CliRunner().invoke(main, ["run", *arguments])


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models take as long as their MACs say, and are cut in one way; gives the names of those that were timed."""
    timed: list[str] = []

    def export(model: object, example: object, path: Path, metadata: object) -> Path:
        path.write_bytes(b"")
        return path

    def time(out: Path, candidates: Sequence[Candidate], *_: object) -> np.ndarray:
        timed.append(candidates[-1].file)
        return in_two_processes(each.macs / 1e6 for each in candidates)

    assert RECIPES["default"] == making.CUT
    monkeypatch.setattr(making, "CUT", RECIPES["compensated"])
    monkeypatch.setattr(making, "export_onnx", export)
    monkeypatch.setattr(making, "time_files", time)
    monkeypatch.setattr(making, "leave_one_out", lambda file, conditions, train, classes: 0.5)
    monkeypatch.setattr(making, "held_out_accuracy", lambda file, conditions, test: 0.5)
    return timed


@pytest.fixture
def profiled(cnn, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """What every profile that is taken turns out to be: of the small CNN, on a machine that is not there, badly."""
    found = wrong(profile_by(cnn.original.model, cnn.original.structure, blocks_of(8)), 1.3)

    def profile(out: Path, conditions: Conditions, **_: object) -> Profile:
        out.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return found

    monkeypatch.setattr(files, "profile", profile)
    return found
