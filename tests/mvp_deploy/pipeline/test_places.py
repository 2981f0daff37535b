from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from mvp_deploy.base.errors import DeployError, ExitCode
from mvp_deploy.pipeline.places import content, fetch, local


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """An empty remote file system, with a cache of its own here."""
    monkeypatch.setenv("MVP_DEPLOY_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_a_remote_folder_is_copied_here_whole_but_for_unfinished_work(remote) -> None:
    remote.pipe({"/bank/bank.json": b"{}", "/bank/tasks/a.safetensors": b"a", "/bank/.work/lock": b""})
    path = fetch("memory://bank")
    assert sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()) == [
        "bank.json",
        "tasks/a.safetensors",
    ]


def test_only_what_has_changed_is_fetched_again(remote, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.pipe({"/bank/bank.json": b"{}", "/bank/tasks/a": b"a"})
    fetched: list[str] = []
    get = type(remote).get_file
    monkeypatch.setattr(
        type(remote),
        "get_file",
        lambda self, remote, *rest, **named: (fetched.append(remote), get(self, remote, *rest)),
    )
    first = fetch("memory://bank")
    assert len(fetched) == 2
    assert fetch("memory://bank") == first
    assert len(fetched) == 2
    remote.pipe("/bank/tasks/a", b"b")
    second = fetch("memory://bank")
    assert fetched[2:] == ["/bank/tasks/a"]
    assert (second / "tasks/a").read_bytes() == b"b"
    assert (first / "tasks/a").read_bytes() == b"a"


def test_a_remote_file_keeps_its_name_and_a_task_its_classes(remote, tmp_path: Path) -> None:
    remote.pipe("/data/birds.npz", b"npz")
    place, _, classes = local("memory://data/birds.npz#owl,wren", tmp_path).partition("#")
    assert Path(place).name == "birds.npz"
    assert Path(place).read_bytes() == b"npz"
    assert classes == "owl,wren"


@pytest.mark.parametrize("url", ["memory://nothing", "nosuchprotocol://x"])
def test_what_cannot_be_fetched_is_one_sentence(remote, url: str) -> None:
    with pytest.raises(DeployError, match=url) as error:
        fetch(url)
    assert error.value.code == ExitCode.ENVIRONMENT


def test_paths_are_relative_to_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local("data/dogs#a", Path("project")) == f"project{os.sep}data/dogs#a"
    assert local("digits#1,2", Path("project")) == "digits#1,2"


def test_content_changes_with_names_and_bytes_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = content(str(tmp_path))
    os.utime(tmp_path / "a", (1, 1))
    (tmp_path / ".hidden").write_text("x")
    assert content(str(tmp_path)) == before
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = content(str(tmp_path))
    (tmp_path / "b").write_text("2")
    assert len({before, renamed, content(str(tmp_path))}) == 3


def test_a_remote_bank_and_remote_data_give_what_local_ones_give(remote, run) -> None:
    for file in Path("bank").rglob("*"):
        if file.is_file():
            remote.pipe(f"/team/bank/{file.relative_to('bank').as_posix()}", file.read_bytes())
    done = run("--dry-run", "--json", "--set", "bank=memory://team/bank")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("unchanged") == 6  # the same bank by content, wherever it lies
