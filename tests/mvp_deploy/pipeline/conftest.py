"""One small pipeline, really run, that tests copy: judging it anew takes no training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from mvp_deploy.cli import main

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
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bank, deploy.yaml and what running it gave."""
    folder = tmp_path_factory.mktemp("pipeline")
    make = ["bank", "init", str(folder / "bank"), "--backbone", "test_resnet", "--image-size", "32"]
    assert CliRunner().invoke(main, make).exit_code == 0
    (folder / "deploy.yaml").write_text(yaml.safe_dump(CONFIG))
    done = CliRunner().invoke(main, ["run", str(folder / "deploy.yaml"), "-q"])
    assert done.exit_code == 0, done.output
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
