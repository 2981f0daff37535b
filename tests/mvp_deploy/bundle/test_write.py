"""What lies in the place of a bundle is never lost: not by mistake, not by a kill, not by a neighbour."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from kills import each_kill, no_waiting_for_disks, posix  # noqa: F401

from mvp_deploy import bundle
from mvp_deploy.base import folders
from mvp_deploy.base.errors import ExitCode, MvpError


def write(path: Path, text: str) -> None:
    with bundle.writing(path) as folder:
        (folder / "models").mkdir()
        (folder / "models/a.onnx").write_text(text)
        bundle.write_json(folder / "bundle.json", text)


def text(path: Path) -> str:
    """What a whole bundle says; fails where its files are not of one writing."""
    assert bundle.verify(path) == []
    found: str = json.loads((path / "bundle.json").read_text())
    assert (path / "models/a.onnx").read_text() == found
    return found


def tree(path: Path) -> dict[str, bytes | None]:
    return {str(file.relative_to(path)): file.read_bytes() if file.is_file() else None for file in path.rglob("*")}


def web_app(path: Path) -> None:
    (path / "src").mkdir(parents=True)
    (path / "manifest.json").write_text('{"name": "My PWA"}')
    (path / "src/app.js").write_text("work")


def folder_without_manifest(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def notes_in_a_bundle(path: Path) -> None:
    write(path, "old")
    (path / "models/notes.txt").write_text("mine")


def notes_beside_engines(path: Path) -> None:
    write(path, "old")
    (path / "built/gpu").mkdir(parents=True)
    (path / "built/gpu/notes.txt").write_text("mine")


def empty_folder_in_a_bundle(path: Path) -> None:
    write(path, "old")
    (path / "later").mkdir()


def manifest_that_names_a_file_outside(path: Path) -> None:
    write(path, "old")
    (path.parent / "secret").write_text("mine")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"sha256": "0" * 64, "bytes": 4}
    (path / "manifest.json").write_text(json.dumps(manifest))


def file(path: Path) -> None:
    path.write_text("a file", encoding="utf-8")


@pytest.mark.parametrize(
    "make",
    [
        web_app, folder_without_manifest, notes_in_a_bundle, notes_beside_engines, empty_folder_in_a_bundle,
        manifest_that_names_a_file_outside, file,
    ],
)  # fmt: skip
def test_what_is_not_a_bundle_of_ours_alone_is_refused_and_untouched(tmp_path: Path, make) -> None:
    make(tmp_path / "place")
    before = tree(tmp_path)
    for action in (lambda: write(tmp_path / "place", "new"), lambda: bundle.withdraw(tmp_path / "place")):
        with pytest.raises(MvpError) as error:
            action()
        assert error.value.code == ExitCode.INPUT
        assert tree(tmp_path) == before


def test_what_is_put_into_the_old_bundle_meanwhile_stops_the_swap(tmp_path: Path) -> None:
    write(tmp_path / "place", "old")

    def put() -> None:
        with bundle.writing(tmp_path / "place") as folder:
            bundle.write_json(folder / "bundle.json", "new")
            (tmp_path / "place/notes.txt").write_text("mine")

    with pytest.raises(MvpError, match=r"notes\.txt"):
        put()
    assert (tmp_path / "place/notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "place/bundle.json").read_text()) == "old"
    assert sorted(os.listdir(tmp_path)) == ["place"]


def test_a_bundle_with_engines_and_a_signature_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "place", "old")
    for name in ("model.sig", "built/gpu/models.json", "built/gpu/a.engine", "built/gpu/a.engine.json"):
        (tmp_path / "place" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "place" / name).write_text("x")
    write(tmp_path / "place", "new")
    assert text(tmp_path / "place") == "new"
    assert sorted(os.listdir(tmp_path / "place")) == ["bundle.json", "example.py", "manifest.json", "models"]
    assert os.listdir(tmp_path) == ["place"]


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(MvpError, match="mount point"):
        write(tmp_path / "place", "new")
    assert os.listdir(tmp_path) == []


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path / "disk/place", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk/place")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert text(tmp_path / "disk/place") == "new"


@posix
@pytest.mark.parametrize("at_once", [True, False], ids=["exchange", "two renames"])
def test_a_kill_at_any_moment_leaves_the_old_bundle_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    place, found = tmp_path / "place", []
    write(place, "old")
    for _ in each_kill(lambda: write(place, "new")):
        found.append(text(place))
        write(place, "old")
        assert text(place) == "old"
        assert os.listdir(tmp_path) == ["place"]
    assert text(place) == "new"
    assert found == sorted(found, reverse=True)  # old up to some moment, and new from then on
    assert {"old", "new"} == set(found)


@posix
def test_a_first_bundle_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    for _ in each_kill(lambda: write(tmp_path / "place", "new")):
        folders.restore(tmp_path / "place")
        assert not (tmp_path / "place").exists() or text(tmp_path / "place") == "new"
        write(tmp_path / "place", "again")
        shutil.rmtree(tmp_path / "place")
        assert os.listdir(tmp_path) == []


@posix
def test_a_kill_while_a_bundle_is_withdrawn_leaves_it_or_nothing(tmp_path: Path) -> None:
    write(tmp_path / "place", "old")
    for _ in each_kill(lambda: bundle.withdraw(tmp_path / "place")):
        if (tmp_path / "place/manifest.json").exists():
            assert text(tmp_path / "place") == "old"
        write(tmp_path / "place", "old")
        assert os.listdir(tmp_path) == ["place"]
    assert os.listdir(tmp_path) == []


def test_a_swap_that_fails_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "place", "old")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(source).parent.name == "whole":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(MvpError, match="Input/output") as error:
        write(tmp_path / "place", "new")
    assert error.value.code == ExitCode.ENVIRONMENT
    assert text(tmp_path / "place") == "old"
    assert os.listdir(tmp_path) == ["place"]


def _write_slowly(path: Path, what: str, begun, go_on) -> None:
    with bundle.writing(path) as folder:
        begun.set()
        assert go_on.wait(30)
        (folder / "models").mkdir()
        (folder / "models/a.onnx").write_text(what)
        bundle.write_json(folder / "bundle.json", what)


def test_of_two_processes_writing_one_bundle_the_second_is_reported(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begun, go_on = context.Event(), context.Event()
    first = context.Process(target=_write_slowly, args=(tmp_path / "place", "first", begun, go_on))
    first.start()
    assert begun.wait(30)
    with pytest.raises(MvpError, match="another process") as error:
        write(tmp_path / "place", "second")
    assert error.value.code == ExitCode.ENVIRONMENT
    go_on.set()
    first.join()
    assert text(tmp_path / "place") == "first"
    assert os.listdir(tmp_path) == ["place"]
