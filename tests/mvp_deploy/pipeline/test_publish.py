"""What lies at the URL of ``out``: only bundles of the run's own tasks change, and nothing that is not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from kills import each_kill, no_waiting_for_disks, posix  # noqa: F401

from mvp_deploy import bundle
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.pipeline import report
from mvp_deploy.pipeline.publish import publish, refuse_strangers


def make(out: Path, outcomes: dict[str, str], text: str, model: str = "a.onnx") -> dict[str, Any]:
    """What a run leaves in ``out``, a bundle for each task that met its gates; and its report."""
    tasks = {}
    for name, outcome in outcomes.items():
        tasks[name] = {"outcome": outcome, "bundle": str(out / "bundles" / name) if outcome == "met" else None}
        if outcome == "met":
            with bundle.writing(out / "bundles" / name) as folder:
                (folder / "models").mkdir()
                (folder / "models" / model).write_text(text)
                bundle.write_json(folder / "bundle.json", text)
    found = {"schema": 1, "tasks": tasks, "text": text}
    for name in report.NAMES:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps(found))
    return found


def text(place: Path) -> str:
    assert bundle.verify(place) == []
    return str(json.loads((place / "bundle.json").read_text()))


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "there").mkdir()
    return f"file://{tmp_path}/there"


def test_only_bundles_of_the_runs_own_tasks_change(tmp_path: Path, url: str) -> None:
    there = tmp_path / "there"
    publish(make(tmp_path / "out", {"a": "met", "b": "met"}, "old"), tmp_path / "out", url)
    (there / "bundles/other").mkdir()
    (there / "bundles/other/x").write_text("somebody's")
    (there / "index.html").write_text("somebody's")
    publish(make(tmp_path / "elsewhere", {"a": "met"}, "new", "b.onnx"), tmp_path / "elsewhere", url)
    assert (text(there / "bundles/a"), text(there / "bundles/b")) == ("new", "old")
    assert not (there / "bundles/a/models/a.onnx").exists()
    assert (there / "bundles/other/x").read_text() == (there / "index.html").read_text() == "somebody's"
    assert json.loads((there / "report.json").read_text())["text"] == "new"
    assert sorted(path.name for path in there.iterdir()) == sorted(["bundles", "index.html", *report.NAMES])


def test_a_task_that_failed_its_gates_has_no_bundle_there_and_one_that_broke_keeps_it(tmp_path: Path, url: str) -> None:
    publish(make(tmp_path / "out", {"a": "met", "b": "met"}, "old"), tmp_path / "out", url)
    publish(make(tmp_path / "out", {"a": "failed", "b": "error"}, "new"), tmp_path / "out", url)
    assert [path.name for path in (tmp_path / "there/bundles").iterdir()] == ["b"]
    assert text(tmp_path / "there/bundles/b") == "old"


@pytest.mark.parametrize("strange", ["bundles/a/notes.txt", "bundles/b/thesis.tex", "junit.xml"])
def test_what_is_not_ours_is_refused_before_anything_changes(tmp_path: Path, url: str, strange: str) -> None:
    there = tmp_path / "there"
    found = make(tmp_path / "out", {"a": "met", "b": "met"}, "new")
    if strange.startswith("bundles/a"):
        publish(make(tmp_path / "before", {"a": "met"}, "old"), tmp_path / "before", url)
    (there / strange).parent.mkdir(parents=True, exist_ok=True)
    (there / strange).write_text("mine")
    before = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    for action in (lambda: refuse_strangers(url, ("a", "b")), lambda: publish(found, tmp_path / "out", url)):
        with pytest.raises(MvpError, match=r"move (it|that) away") as error:
            action()
        assert error.value.code == ExitCode.INPUT
        assert {path: path.read_bytes() for path in there.rglob("*") if path.is_file()} == before


def test_an_object_store_is_written_the_same_way(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.store.clear()
    publish(make(tmp_path / "out", {"a": "met", "b": "met"}, "old"), tmp_path / "out", "memory://team/out")
    publish(make(tmp_path / "out", {"a": "failed", "b": "met"}, "new"), tmp_path / "out", "memory://team/out")
    names = {name.removeprefix("/team/out/") for name in system.find("/team/out")}
    files = ("bundle.json", "example.py", "manifest.json", "models/a.onnx")
    assert names == {*report.NAMES, *(f"bundles/b/{name}" for name in files)}
    assert json.loads(system.cat_file("/team/out/bundles/b/bundle.json")) == "new"
    system.store.clear()


@posix
def test_a_kill_at_any_moment_leaves_what_is_whole_or_refused_and_the_next_run_mends_it(
    tmp_path: Path, url: str
) -> None:
    place, states = tmp_path / "there/bundles/a", []
    old, new = (make(tmp_path / text, {"a": "met"}, text) for text in ("old", "new"))
    publish(old, tmp_path / "old", url)
    for _ in each_kill(lambda: publish(new, tmp_path / "new", url)):
        states.append(text(place) if bundle.verify(place) == [] else "refused")
        publish(new, tmp_path / "new", url)
        assert text(place) == "new"
        publish(old, tmp_path / "old", url)
        assert text(place) == "old"
    assert text(place) == "new"
    assert states[0] == "old"
    assert states[-1] == "new"
    assert states == sorted(states, key=["old", "refused", "new"].index)
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == sorted(["bundles", *report.NAMES])


def test_reports_of_another_tool_in_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    with pytest.raises(MvpError, match="junit") as error:
        report.refuse_strangers(tmp_path)
    assert error.value.code == ExitCode.INPUT
    make(tmp_path, {}, "ours")
    report.refuse_strangers(tmp_path)
