from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mvp_deploy import __version__
from mvp_deploy.base.errors import ExitCode, error_of
from mvp_deploy.base.progress import plain_table
from mvp_deploy.cli import main
from mvp_deploy.cli._common import Console, common_options, resumes


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """``failing(error)`` makes the command line's only command raise it."""

    def install(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(type(main), "list_commands", lambda self, ctx: ["fail"])
        monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: command)

    return install


def test_help_imports_click_alone_and_so_answers_at_once() -> None:
    code = (
        "import sys; before = set(sys.modules); from mvp_deploy.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "packages = {name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names\n"
        "print('LOADED', sorted(packages))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED ['click', 'mvp_deploy']"


def test_python_m_is_the_command() -> None:
    call = [sys.executable, "-m", "mvp_deploy", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout == f"mvp-deploy, version {__version__}\n"


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="file names have no such letters here")
def test_a_terminal_that_cannot_show_a_name_gets_its_code(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "mvp_deploy", "init", "日本.yaml"]
    latin = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(call, capture_output=True, check=False, cwd=tmp_path, env=latin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(rb"\u65e5\u672c.yaml written")


def test_the_shell_completes_commands() -> None:
    asked = {"_MVP_DEPLOY_COMPLETE": "bash_complete", "COMP_WORDS": "mvp-deploy be", "COMP_CWORD": "1"}
    assert CliRunner().invoke(main, [], prog_name="mvp-deploy", env=asked).output == "plain,bench\n"


def commands(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of every command below a group, as one types them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name)


def test_every_command_has_help_with_an_example() -> None:
    for name in commands(main):
        shown = CliRunner().invoke(main, [*name, "--help"])
        assert shown.exit_code == 0
        assert f"mvp-deploy {' '.join(name)}" in shown.output, f"the help of {name} has no example"


@pytest.mark.parametrize("code", [code for code in ExitCode if code])
def test_an_expected_error_is_one_sentence_and_its_exit_code(failing, code: ExitCode) -> None:
    failing(error_of("the sky is green: paint it blue.", code))
    done = CliRunner().invoke(main, ["fail"])
    assert done.exit_code == code
    assert done.output == "Error: the sky is green: paint it blue.\n"


def test_an_unexpected_error_names_debug_and_debug_shows_the_traceback(failing) -> None:
    failing(KeyError("x"))
    short = CliRunner().invoke(main, ["fail"])
    assert short.exit_code == ExitCode.ERROR
    assert len(short.output.splitlines()) == 1
    assert "--debug" in short.output
    long = CliRunner().invoke(main, ["fail", "--debug"])
    assert long.exit_code == ExitCode.ERROR
    assert "Traceback" in long.output


@pytest.mark.parametrize(("missing", "line"), [("torch.nn", "'mvp-deploy[train]'"), ("PIL", "'mvp-deploy'")])
def test_a_missing_package_is_the_environments_fault_and_comes_with_its_install_line(failing, missing, line) -> None:
    failing(ModuleNotFoundError(f"No module named '{missing}'", name=missing))
    done = CliRunner().invoke(main, ["fail"])
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert done.output == f"Error: this needs {missing}, which is not installed: pip install {line}\n"


def test_a_letter_that_the_locale_lacks_is_reported_with_the_cure(failing) -> None:
    failing(UnicodeEncodeError("ascii", "für", 1, 2, "ordinal not in range(128)"))
    done = CliRunner().invoke(main, ["fail"])
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert "set PYTHONUTF8=1" in done.output


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == ExitCode.INPUT


def test_json_is_all_there_is_on_stdout() -> None:
    @click.command()
    @common_options
    def command(device: str, seed: int, console: Console) -> None:
        console.say("a remark")
        console.show("for people")
        console.table(["a"], [[1]])
        with console.progress("work") as step:
            step(1, 2, 0.5)
        console.result({"device": device, "seed": seed})

    done = CliRunner().invoke(command, ["--json", "--seed", "3"])
    assert done.stdout == '{\n  "device": "auto",\n  "seed": 3\n}\n'
    assert "a remark" in done.stderr
    assert "work: 1/2, loss 0.500" in done.stderr
    assert CliRunner().invoke(command, ["--json", "--quiet"]).stderr == ""


def test_a_tables_columns_line_up() -> None:
    lines = plain_table(["model", "ms"], [["pruned", "1.25"], ["unpruned", "10.5"]]).splitlines()
    assert lines == ["model       ms", "--------------", "pruned    1.25", "unpruned  10.5"]


def test_ctrl_c_ends_a_command_as_shells_expect(failing) -> None:
    failing(KeyboardInterrupt())
    done = CliRunner().invoke(main, ["fail"])
    assert done.exit_code == 130
    assert done.stderr == "Interrupted.\n"


def test_ctrl_c_says_that_the_same_call_goes_on() -> None:
    @click.command()
    @common_options
    @resumes
    def long(console: Console, device: str, seed: int) -> None:
        raise KeyboardInterrupt

    done = CliRunner().invoke(long, ["--quiet"])
    assert done.exit_code == 1
    assert "call it again with the same arguments" in done.stderr
