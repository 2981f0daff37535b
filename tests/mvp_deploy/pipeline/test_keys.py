"""What a step's key depends on: all that decides the result, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import grimp
import pytest
from click.testing import CliRunner

from mvp_deploy.base.errors import ExitCode
from mvp_deploy.cli import main
from mvp_deploy.pipeline.steps import MADE_BY, code, meaning

PROGRAM = '"""Text."""\n\ndef f(x):\n    """More text."""\n    return x + 1  # because\n'


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('"""Another."""\ndef f(x):\n    return (x +\n            1)\n', True),
        (PROGRAM.replace("1", "2"), False),
        (PROGRAM.replace("return", "yield"), False),
        (PROGRAM + "LIMIT = 3\n", False),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(other: str, same: bool) -> None:
    assert (meaning(other) == meaning(PROGRAM)) == same


@pytest.mark.parametrize("step", ["prune", "export"])
def test_the_rooms_of_a_step_are_all_that_it_imports(step: str) -> None:
    """Those of the step itself and of the steps before it."""
    graph = grimp.build_graph("mvp_deploy", exclude_type_checking_imports=True, cache_dir=None)
    top = {"prune": "mvp_deploy.runs", "export": "mvp_deploy.export"}[step]
    imported = {module.split(".")[1] for module in graph.find_upstream_modules(top, as_package=True) if "." in module}
    known = MADE_BY["prune"] if step == "prune" else MADE_BY["prune"] + MADE_BY["export"]
    leaves = {"exporters"} if step == "prune" else set()  # base's errors and files lie there
    assert imported - set(known) - leaves == set()
    assert code(step) != code("benchmark")


def test_the_folder_a_command_is_called_in_does_not_count(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = CliRunner().invoke(main, ["run", "--dry-run", "--json"])
    monkeypatch.chdir(tmp_path)
    there = CliRunner().invoke(main, ["run", str(project / "deploy.yaml"), "--dry-run", "--json"])
    assert json.loads(here.stdout) == json.loads(there.stdout)
    assert "to do" not in there.stdout


def test_a_bank_that_changes_is_seen_by_the_next_run_of_one_process(project: Path) -> None:
    first = CliRunner().invoke(main, ["run", "--dry-run", "--json"])
    assert "to do" not in first.stdout
    (project / "bank/tasks/new").write_text("one more")
    second = CliRunner().invoke(main, ["run", "--dry-run", "--json"])
    assert "unchanged" not in second.stdout


@pytest.mark.parametrize("change", ["out=bank/results", "tasks.ones.data=."])
def test_results_do_not_go_among_what_they_are_made_from(project: Path, change: str) -> None:
    done = CliRunner().invoke(main, ["run", "--dry-run", "--set", change])
    assert done.exit_code == ExitCode.INPUT
    assert "choose another --out" in done.output
