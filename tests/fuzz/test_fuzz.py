"""Whatever lies where a file of ours should be, reading it ends well or in a sentence with its exit code; never else.

Bounded by their numbers; `benchmarks/fuzz/run.py` goes on for as long as one likes, from other seeds.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.mutate import contents, fields, odd_files, remove
from fuzz.targets import IMAGES, Target, all_targets, refused, reseal
from mvp_deploy.base.errors import MvpError
from mvp_deploy.base.formats import Malformed, loads
from mvp_deploy.base.yamlfile import NotYaml, parse
from mvp_deploy.cli import main

FILES = (
    "manifest.json", "bundle.json", "labels.json", "samples.npz", "measurements.json", "run.json", "bank.json",
    "backbone.safetensors", "task", "images.csv", "coco.json", "deploy.yaml", "report.json", "weights.safetensors",
    "weights.pth", "calibration.npz", "data.npz", "a.engine.json", *IMAGES,
)  # fmt: skip
JSON = [name for name in FILES if name.endswith((".json", ".yaml"))]


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return dict(zip(FILES, all_targets(tmp_path_factory.mktemp("fuzz")), strict=True))


def restored(target: Target, content: bytes) -> None:
    remove(target.file)
    target.file.write_bytes(content)
    target.settle()


@pytest.mark.parametrize("name", JSON)
def test_every_field_of_every_format(targets: dict[str, Target], name: str) -> None:
    target = targets[name]
    whole = target.file.read_bytes()
    assert not refused(target.read)
    wrong = []
    for what, content in fields(yaml.safe_load(whole)):
        for changed in {content, reseal(content) if target.sealed else content}:
            target.file.write_bytes(changed)
            target.settle()
            try:
                found = refused(target.read)
            except Exception as error:
                wrong.append(f"{what}: {error!r}"[:200])
                continue
            if changed is content and target.sealed and not found:
                wrong.append(f"{what}: taken though its checksum is another's")
    restored(target, whole)
    assert wrong == []
    assert not refused(target.read)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_damage(targets: dict[str, Target], name: str) -> None:
    target = targets[name]
    whole = target.file.read_bytes()
    wrong = []
    for what, content in contents(whole):
        target.file.write_bytes(content)
        target.settle()
        try:
            refused(target.read)
        except Exception as error:
            wrong.append(f"{what}: {error!r}"[:200])
    restored(target, whole)
    assert wrong == []


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_a_file(targets: dict[str, Target], name: str) -> None:
    target = targets[name]
    whole = target.file.read_bytes()
    found = {what: refused(target.read) for what in odd_files(target.file)}
    restored(target, whole)
    assert set(found.values()) == {True}, found


KEYS = st.text(max_size=5) | st.sampled_from(["bank", "tasks", "data", "seed", "<<", "gates"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
BOUNDED = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
NUMBERS = ["nan", "inf", "-inf", "-1", "1e999", "9" * 400, "", "x", "0x10", "\u0663.5e", "1,", "--"]


@BOUNDED
@given(VALUES)
def test_any_values_as_a_deploy_yaml(tmp_path_factory: pytest.TempPathFactory, values: object) -> None:
    from mvp_deploy.pipeline import deployfile

    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(json.dumps(values))
    refused(lambda: deployfile.load(file))


@BOUNDED
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_as_json_and_yaml(content: bytes) -> None:
    for read, kind in ((loads, Malformed), (lambda text: parse(text.decode(errors="replace")), NotYaml)):
        with suppress(kind):
            read(content)


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(
    "command",
    [
        ["prune", "digits", "--bank", "none", "--out", "run", "--keep"],
        ["prune", "digits", "--bank", "none", "--out", "run", "--lr"],
        ["prune", "digits", "--bank", "none", "--out", "run", "--steps"],
        ["prune", "digits", "--bank", "none", "--out", "run", "--seed"],
        ["bank", "add", "none", "digits", "--rounds"],
        ["bank", "init", "bank", "--backbone", "test_resnet", "--image-size"],
        ["bench", "none.onnx", "--duration"],
        ["bench", "none.onnx", "--batch"],
        ["bench", "none.onnx", "--threads"],
        ["export", "none", "--out", "bundle", "--max-drop"],
        ["run", "none.yaml", "--jobs"],
    ],
    ids=lambda command: f"{command[0]} {command[-1]}" if isinstance(command, list) else command[:8],
)
def test_numbers_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*command, value])
    assert done.exit_code in (2, 6), done.output
    assert "Traceback" not in done.output
    assert "unexpected" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_read_is_exit_code_6(targets: dict[str, Target], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", broken)
    for name in ("manifest.json", "run.json", "bank.json", "deploy.yaml"):
        with pytest.raises(MvpError, match="cannot be read") as error:
            targets[name].read()
        assert error.value.code == 6, name


@pytest.mark.parametrize("command", [["bench"], ["check"], ["run"], ["verify"]])
def test_commands_do_not_wait_for_a_pipe(tmp_path: Path, command: list[str]) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    done = CliRunner().invoke(main, [*command, str(tmp_path / "model.onnx")])
    assert done.exit_code in (2, 6), done.output
    assert "unexpected" not in done.output
