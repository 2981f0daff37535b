"""What is given on the command line is checked before any work: numbers have bounds, names are of a list."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest
from click.testing import CliRunner

from mvp_deploy.base import bounds
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.base.formats import Within
from mvp_deploy.benchmark.measure import Settings
from mvp_deploy.cli import NAMES, _options, main
from mvp_deploy.cli._types import Listed, Number, Output
from mvp_deploy.export.config import Exports
from mvp_deploy.pruning.budget import Budget
from mvp_deploy.pruning.iterative import Schedule
from mvp_deploy.training import TrainConfig

Found = tuple[tuple[str, ...], click.Command, click.Option]
NO_NUMBERS = ["nan", "inf", "-inf", "-1", "1e300", "ten", ""]


def options(command: click.Command, path: tuple[str, ...]) -> Iterator[Found]:
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from options(part, (*path, name))
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield path, command, parameter


ALL = [found for name in NAMES for found in options(import_module(f"mvp_deploy.cli.{name}").command, (name,))]
NUMBERS = [found for found in ALL if isinstance(found[2].type, Number)]


def named(found: Found) -> str:
    return " ".join((*found[0], found[2].opts[0]))


def call(path: tuple[str, ...], command: click.Command, option: str, value: str) -> str:
    """The command with that value, and something for all that must be given; what it says when it is refused."""
    arguments = [*path]
    for parameter in command.params:
        if parameter.required and not (isinstance(parameter, click.Option) and option in parameter.opts):
            arguments += ["x"] if isinstance(parameter, click.Argument) else [parameter.opts[0], "x"]
    done = CliRunner().invoke(main, [*arguments, f"{option}={value}"])
    assert done.exit_code == ExitCode.INPUT, done.output
    assert f"Invalid value for '{option}'" in done.output
    return done.output


@pytest.mark.parametrize("found", ALL, ids=named)
def test_every_number_on_the_command_line_has_bounds(found: Found) -> None:
    kind = found[2].type
    kind = kind.of if isinstance(kind, Listed) else kind
    if kind.name in ("integer", "float", "integer range", "float range"):
        assert isinstance(kind, Number), f"{named(found)}: give it a type with bounds, cli._types.Number"
        assert math.isfinite(kind.bounds.low)
        assert math.isfinite(kind.bounds.high)


@pytest.mark.parametrize("found", NUMBERS, ids=named)
def test_values_that_are_not_numbers_or_out_of_bounds_are_refused_before_any_work(found: Found) -> None:
    path, command, option = found
    assert isinstance(option.type, Number)
    wrong = [*NO_NUMBERS, *(["0"] if not option.type.bounds.holds(0) else [])]
    for value in wrong:
        call(path, command, option.opts[0], value)


@pytest.mark.parametrize(
    ("path", "option", "value"),
    [
        (("bank", "add"), "--criterion", "banana"),
        (("bank", "evaluate"), "--recipe", "banana"),
        (("prune",), "--recipe", "banana"),
        (("prune",), "--device", "gpu"),
        (("export",), "--precision", "fp32,int4"),
        (("export",), "--measure", "1,0"),
        (("bench",), "--batch", "1,1e9"),
        (("bench",), "--precision", "int4"),
        (("build",), "--precision", "int4"),
    ],
)
def test_unknown_names_are_refused_before_any_work(path: tuple[str, ...], option: str, value: str) -> None:
    command = next(command for at, command, _ in ALL if at == path)
    call(path, command, option, value)


@pytest.mark.parametrize("one", [value for value in vars(bounds).values() if isinstance(value, Within)], ids=str)
def test_bounds_hold_their_ends_and_only_numbers(one: Within) -> None:
    assert one.holds(one.low) != one.above
    assert one.holds(one.high)
    assert not any(one.holds(value) for value in (math.nan, math.inf, -math.inf, one.high + 1, one.low - 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_settings_refuse_numbers_out_of_bounds_however_they_are_made(value: float) -> None:
    for make in (
        lambda: Budget(value, "units"),
        lambda: Schedule(rounds=value),  # type: ignore[arg-type]
        lambda: Schedule(steps=value),  # type: ignore[arg-type]
        lambda: TrainConfig(lr=value),
        lambda: TrainConfig(steps=value),  # type: ignore[arg-type]
        lambda: TrainConfig(clip=value),
        lambda: TrainConfig(temperature=value),
        lambda: Exports(max_drop=value - 1),
        lambda: Settings(duration=value),
    ):
        with pytest.raises(MvpError):
            make()


def test_an_unknown_criterion_is_refused_when_the_schedule_is_made() -> None:
    from mvp_deploy.pruning.config import Criterion
    from mvp_deploy.pruning.importance import CRITERIA

    assert set(get_args(Criterion)) == set(CRITERIA)
    with pytest.raises(MvpError, match="criterion is 'banana': it must be taylor or obs"):
        Schedule(criterion="banana")  # type: ignore[arg-type]


def test_the_methods_of_int8_that_users_choose_from_are_those_there_are() -> None:
    from mvp_deploy.calibration.thresholds import METHODS

    assert set(get_args(get_type_hints(Exports)["int8_method"])) == set(METHODS)


def test_an_option_stands_for_its_field() -> None:
    said = CliRunner().invoke(main, ["export", "--help"], terminal_width=100).output
    assert re.search(r"--max-drop PERCENT .*\[default: 1%\]", " ".join(said.split()))
    seen: list[Exports] = []
    command = click.command()(
        _options.options("asked", Exports(), max_drop="--max-drop")(lambda asked: seen.append(asked))
    )
    for given in (["--max-drop", "2"], ["--max-drop", "2%"], []):
        CliRunner().invoke(command, given, catch_exceptions=False)
    assert [asked.max_drop for asked in seen] == [0.02, 0.02, Exports().max_drop]


def test_nothing_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["bank", "add", "bank", "digits#0,1", "--rounds", "0"])
    assert done.exit_code == ExitCode.INPUT
    assert "0 is not from 1 to 1000" in done.output
    assert not any(tmp_path.iterdir())


def test_an_output_replaces_only_a_file_of_its_kind(tmp_path: Path) -> None:
    kind = Output(".csv", ".txt")
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "folder.csv").mkdir()
    for name in ("photo.jpg", "folder.csv"):
        with pytest.raises(click.BadParameter, match=r"exists and is not a \.csv file"):
            kind.convert(str(tmp_path / name), None, None)
    (tmp_path / "old.CSV").touch()
    for name in ("old.CSV", "new.csv", "new"):
        assert kind.convert(str(tmp_path / name), None, None) == tmp_path / name


def test_targets_may_stand_in_one_option_or_in_several() -> None:
    @click.command()
    @_options.options("asked", Exports(), "targets", targets="--target")
    def command(asked: Exports) -> None:
        click.echo(asked.targets)

    done = CliRunner().invoke(command, ["--target", "onnx, openvino", "--target", "mnn"])
    assert done.stdout == "('onnx', 'openvino', 'mnn')\n"
