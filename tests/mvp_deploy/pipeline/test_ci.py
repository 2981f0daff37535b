"""The scripts of action.yml and of docs/ci.md, executed; what they install is here already."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvp_deploy.base.errors import ExitCode
from mvp_deploy.pipeline.config import Config

ROOT = Path(__file__).parents[3]
DOCUMENTED = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/ci.md").read_text(), re.DOTALL)


@pytest.fixture
def environment(project: Path, tmp_path: Path) -> dict[str, str]:
    """A shell's environment where `mvp-deploy` is this code, and pip has nothing to do."""
    tools = tmp_path / "tools"
    tools.mkdir()
    python = f"#!/bin/sh\nexec {sys.executable} -c 'from mvp_deploy.cli import main; main()' \"$@\"\n"
    for name, script in (("mvp-deploy", python), ("pip", '#!/bin/sh\necho "$@" > installed\n')):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}


def shell(script: str, environment: dict[str, str]) -> int:
    return subprocess.run(["bash", "-eo", "pipefail", "-c", script], env=environment, check=False).returncode


def action() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "action.yml").read_text())
    assert isinstance(found, dict)
    return found


def test_the_actions_script_runs_the_config_and_compares_with_an_accepted_report(
    environment: dict[str, str], tmp_path: Path
) -> None:
    [script] = [step["run"] for step in action()["runs"]["steps"] if step.get("name") == "Run"]
    inputs = {name: str(value["default"]) for name, value in action()["inputs"].items()}
    given = {"CONFIG": inputs["config"], "ARGUMENTS": "--only ones --quiet", "BASELINE": inputs["baseline"]}
    assert shell(script, environment | given) == 0
    assert "1 of 1 tasks met" in (tmp_path / "summary").read_text()

    report = json.loads(Path("deploy/report.json").read_text(encoding="utf-8"))
    report["tasks"]["ones"]["models"][1]["bytes"] //= 2
    accepted = Path(inputs["baseline"])
    accepted.parent.mkdir()
    accepted.write_text(json.dumps(report), encoding="utf-8")
    assert shell(script, environment | given) == ExitCode.LATENCY


@pytest.mark.parametrize(
    ("package", "installed"), [("", "/the/action[train]"), ("mvp-deploy[train]==9", "mvp-deploy[train]==9")]
)
def test_the_action_installs_itself_or_what_it_is_told(
    environment: dict[str, str], package: str, installed: str
) -> None:
    [script] = [step["run"] for step in action()["runs"]["steps"] if step.get("name") == "Install"]
    assert shell(script, environment | {"PACKAGE": package, "GITHUB_ACTION_PATH": "/the/action"}) == 0
    assert Path("installed").read_text(encoding="utf-8").split() == ["install", installed]


def test_every_input_of_the_action_is_used() -> None:
    steps = json.dumps(action()["runs"])
    assert all(f"inputs.{name} }}}}" in steps for name in action()["inputs"])


def test_the_examples_workflow_can_be_copied_as_it_is() -> None:
    example = ROOT / "examples/ci"
    workflow = yaml.safe_load((example / ".github/workflows/models.yml").read_text())
    [job] = workflow["jobs"].values()
    tasks = Config.model_validate(yaml.safe_load((example / "deploy.yaml").read_text())).tasks
    assert job["strategy"]["matrix"]["task"] == list(tasks)
    [ours] = [step for step in job["steps"] if "actions/" not in step["uses"]]
    assert ours["uses"] == "./mvp-deploy"
    assert set(ours["with"]) <= set(action()["inputs"])
    assert workflow in [yaml.safe_load(block) for block in DOCUMENTED]


def test_a_matrixs_jobs_keep_caches_and_artifacts_of_their_own() -> None:
    kept = [step["with"] for step in action()["runs"]["steps"] if "uses" in step]
    named = [value for each in kept for key, value in each.items() if key in ("key", "restore-keys", "name")]
    assert len(named) == 4
    assert all(line.startswith("${{ inputs.name }}") for value in named for line in value.splitlines())


def test_gitlabs_script_runs(environment: dict[str, str]) -> None:
    [job] = [job["models"] for job in map(yaml.safe_load, DOCUMENTED) if "models" in job]
    assert shell("\n".join(job["script"]), environment) == 0
    assert all(Path(path).exists() for path in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]))


def test_the_smallest_file_in_the_docs_is_a_config() -> None:
    [smallest] = [config for config in map(yaml.safe_load, DOCUMENTED) if "tasks" in config]
    assert list(Config.model_validate(smallest).tasks) == ["dogs"]
