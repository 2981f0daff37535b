from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.cli import main
from mvp_deploy.pipeline.config import Config
from mvp_deploy.pipeline.deployfile import load
from mvp_deploy.pruning.config import Budget

GOOD = """\
bank: bank
gates:
  max_drop: 0.02
  latency:
    - at_most_ms: 5
      batch: 1
tasks:
  dogs:
    data: data/dogs
    gates: {min_accuracy: 0.9}
  cats:
    data: data/cats
    gates: {max_drop: 0.5}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "deploy.yaml"
    file.write_text(text)
    return file


def test_a_task_takes_over_what_is_set_for_all_key_by_key(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD))
    dogs, cats = config.tasks["dogs"].gates, config.tasks["cats"].gates
    assert (dogs.max_drop, dogs.min_accuracy) == (0.02, 0.9)
    assert (cats.max_drop, cats.min_accuracy) == (0.5, None)
    assert dogs.latency == cats.latency == config.gates.latency


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("max_drop: 0.02", "max_drpo: 0.02", "line 3: gates.max_drpo: there is no such key; did you mean max_drop?"),
        (
            "tasks:\n",
            "training: {step: 9}\ntasks:\n",
            "line 7: training.step: there is no such key; did you mean steps?",
        ),
        ("max_drop: 0.02", "max_drop: lots", "line 3: gates.max_drop: input should be a valid number"),
        (
            "at_most_ms: 5",
            "at_most_ms: -5",
            "line 5: gates.latency.0.at_most_ms: input should be greater than 0, not -5",
        ),
        ("min_accuracy: 0.9", "min_accuracy: 9", "line 10: tasks.dogs.gates.min_accuracy: input should be less than"),
        ("    data: data/cats\n", "", "line 11: tasks.cats.data: this key is missing"),
        ("bank: bank\n", "", "bank: this key is missing"),
        ("  cats:", "  c ats:", "line 11: tasks.c ats: string should match pattern"),
        ("  cats:", "  dogs:", "line 11: dogs: this key is there twice"),
        ("bank: bank", "bank: [bank", "this is not YAML"),
        ("tasks:", "seed: -1\ntasks:", "line 7: seed: input should be greater than or equal to 0, not -1"),
        ("tasks:", "recipe: {name: banana}\ntasks:", "line 7: recipe: there is no recipe 'banana'"),
        ("tasks:", "recipe: {set: {own: .nan}}\ntasks:", "recipe"),
        (
            "tasks:",
            "recipe: {set: {criterion: x}}\ntasks:",
            "line 7: recipe: criterion is 'x': it must be",
        ),
        ("tasks:", "export: {targets: [caffe]}\ntasks:", "line 7: export.targets: there is no target"),
        ("tasks:", "device: gpu\ntasks:", "line 7: device: string should match pattern"),
        (
            "at_most_ms: 5",
            "at_most_ms: 5\n    - {at_most_ms: 5, batch: 8}\n    - at_most_ms: 5",
            "a gate is for batch 8, and what is measured has batch 1",
        ),
        ("at_most_ms: 5", "at_most_ms: 5\n      precision: int8", "a gate is for precision int8"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_key(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(MvpError) as error:
        load(write(tmp_path, GOOD.replace(old, new, 1)))
    assert told in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "deploy.yaml"))
    assert error.value.code == ExitCode.INPUT


def test_every_mistake_is_reported_once(tmp_path: Path) -> None:
    with pytest.raises(MvpError) as error:
        load(write(tmp_path, GOOD.replace("max_drop: 0.02", "max_drop: 7").replace("bank: bank", "bnak: bank")))
    lines = str(error.value).splitlines()
    assert len(lines) == len(set(lines)) == 3  # bank missing, bnak unknown, max_drop


def test_a_fraction_must_say_what_it_counts(tmp_path: Path) -> None:
    """It counted units once; half of the MACs are the default now."""
    assert load(write(tmp_path, GOOD)).tasks["dogs"].budget == Budget(0.5, "macs")
    with pytest.raises(MvpError) as told:
        load(write(tmp_path, f"budget: {{fraction: 0.3}}\n{GOOD}"))
    [line] = str(told.value).splitlines()  # once, not for each task
    assert "line 1: budget: say by budget.of what budget.fraction counts" in line
    config = load(write(tmp_path, f"budget: {{fraction: 0.3, of: units}}\n{GOOD}"), ["tasks.cats.budget.fraction=0.4"])
    assert config.tasks["dogs"].budget == Budget(0.3, "units")
    assert config.tasks["cats"].budget == Budget(0.4, "units")


def test_set_puts_a_value_in_place_of_the_files(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    config = load(file, ["gates.max_drop=0.07", "tasks.dogs.training.steps=9", "benchmark.batches=[1, 8]"])
    assert config.tasks["dogs"].gates.max_drop == 0.07
    assert config.tasks["dogs"].training.steps == 9
    assert config.tasks["cats"].benchmark.batches == (1, 8)


def numbers(schema: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number in a JSON schema, by its place."""
    if isinstance(schema, dict) and schema.get("type") in ("number", "integer"):
        yield place, schema
    for name, part in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if isinstance(part, dict | list):
            yield from numbers(part, f"{place}.{name}".lstrip("."))


SCHEMA = Config.model_json_schema()


@pytest.mark.parametrize(("name", "number"), [*numbers(SCHEMA["$defs"]), *numbers(SCHEMA["properties"])], ids=str)
def test_every_number_has_bounds_on_both_sides(name: str, number: dict[str, Any]) -> None:
    assert number.keys() & {"minimum", "exclusiveMinimum"}, f"{name}: give it a least value"
    assert number.keys() & {"maximum", "exclusiveMaximum"}, f"{name}: give it a greatest value"


@pytest.mark.parametrize("value", [".nan", ".inf", "nan", "-1", "1e300"])
def test_no_number_of_the_file_may_be_none_or_beyond_sense(tmp_path: Path, value: str) -> None:
    for key in ("training.lr", "training.steps", "benchmark.duration", "gates.max_drop", "budget.fraction", "seed"):
        with pytest.raises(MvpError, match=key):
            load(write(tmp_path, GOOD), [f"{key}={value}"])


@pytest.mark.parametrize("change", ["gates.max_drop", "gates.max_drop=7", "bank.deeper=1", "x=[", "no.such=1"])
def test_a_wrong_set_is_named_as_such(tmp_path: Path, change: str) -> None:
    with pytest.raises(MvpError, match="--set"):
        load(write(tmp_path, GOOD), [change])


def test_an_empty_or_absent_file_points_to_init(tmp_path: Path) -> None:
    for path in (write(tmp_path, ""), tmp_path / "nowhere.yaml"):
        with pytest.raises(MvpError, match="mvp-deploy init"):
            load(path)


def test_init_writes_a_file_that_loads_and_names_every_key(tmp_path: Path) -> None:
    file = tmp_path / "deploy.yaml"
    assert CliRunner().invoke(main, ["init", str(file)]).exit_code == 0
    config = load(file)
    text = file.read_text()
    for section in (SCHEMA, *(part for name, part in SCHEMA["$defs"].items() if name != "TaskSection")):
        for name in section["properties"]:
            assert f"{name}:" in text
    plain = yaml.safe_load(text)
    assert config.training == Config.model_validate({"bank": "b", "tasks": plain["tasks"]}).training
    again = CliRunner().invoke(main, ["init", str(file)])
    assert again.exit_code == ExitCode.INPUT
    assert file.read_text() == text


def test_the_schema_names_the_same_keys(tmp_path: Path) -> None:
    schema = json.loads(CliRunner().invoke(main, ["schema"]).stdout)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["required"] == ["bank", "tasks"]
