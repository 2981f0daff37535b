"""devices.yaml: what is no such file is refused before it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mvp_deploy.base.errors import ExitCode, InputError
from mvp_deploy.cli import main
from mvp_deploy.remote.inventory import add, load


def test_a_device_is_added_below_the_others_whose_comments_stay(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    add(file, "pi5", {"address": "pi@pi5"})
    file.write_text(file.read_text() + "# in the cellar\n")
    add(file, "orin", {"address": "nvidia@orin"})
    assert list(load(file)) == ["pi5", "orin"]
    assert "# in the cellar" in file.read_text()
    with pytest.raises(InputError, match="has 'pi5' already"):
        add(file, "pi5", {"address": "pi@other"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:\n  address: -x", "line 2: a.address: it must be user@host, or a Host of ~/.ssh/config, not '-x'"),
        ("a:\n  address: x\n  treads: 4", "line 3: a.treads: there is no such key; did you mean threads?"),
        ("a:\n  port: 22", "line 1: a.address: this key is missing"),
        ("a:\n  address: x\n  port: 0", "line 3: a.port: input should be greater than or equal to 1, not 0"),
        ("a: 3", "line 1: a: there must be keys below it"),
        ("a b:\n  address: x", "line 1: a b: it must be up to 60 letters, digits, - and _"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        load(file)
    assert told in str(refused.value)


def test_each_mistake_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text("a:\n  adress: pi@pi5\n  tags: [arm, -x]\n")
    with pytest.raises(InputError) as refused:
        load(file)
    missing, tag, mistyped = str(refused.value).splitlines()
    assert missing == f"{file}, line 1: a.address: this key is missing"
    assert tag.startswith(f"{file}, line 3: a.tags.1: it must be up to 60 letters")
    assert mistyped == f"{file}, line 2: a.adress: there is no such key; did you mean address?"


def test_all_is_every_device_and_no_name_of_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'all' stands for every device"):
        add(tmp_path / "devices.yaml", "all", {"address": "pi@pi5"})
    assert not (tmp_path / "devices.yaml").exists()


def test_an_address_may_be_ipv6(tmp_path: Path) -> None:
    assert add(tmp_path / "devices.yaml", "pi5", {"address": "::1"}).address == "::1"


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--on", ""], "names no device"), (["--allow-missing"], "name devices with --on"), (["--sign-key", "k"], "--on")],
)
def test_what_is_for_devices_is_not_for_this_machine(options: list[str], told: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["bench", str(tmp_path), *options])
    assert done.exit_code == ExitCode.INPUT
    assert told in done.output


def test_a_key_in_the_wrong_place_is_not_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "devices.yaml").write_text("a:\n  address: x\n  power: {threads: 4}")
    with pytest.raises(InputError, match=r"there is no such key$"):
        load(tmp_path / "devices.yaml")


def test_a_folder_in_its_place_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        add(tmp_path, "pi5", {"address": "pi@pi5"})
