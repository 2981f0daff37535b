"""A RUN folder is of one run, whoever is killed or writes at the same time; what is not a run's stays."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
from fakes.run import info
from kills import each_kill, no_waiting_for_disks, on_disk, posix  # noqa: F401

from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.base.workspaces import workspaces
from mvp_deploy.runs import folder as folders

SHARED, OWN = "0" * 16, "1" * 16


def make(run: Path, what: int) -> None:
    """A run of two models and an info that all say ``what``."""
    with folders.writing(run):
        shared, work = workspaces(run / ".work", SHARED, OWN)
        models = {
            "unpruned.safetensors": shared / "unpruned.safetensors",
            "pruned.safetensors": work / "pruned.safetensors",
        }
        for path in models.values():
            tensorfile.save(path, {"plan": {}, "what": what}, {"weights": {"w": torch.full((3,), what)}})
        folders.complete(run, work, info(what), models)


def says(run: Path) -> int:
    """What a run says, as a whole."""
    what: int = folders.read(run)["seed"]
    for name in folders.MODELS:
        header, sections = tensorfile.load(run / name)
        assert header["what"] == what == int(sections["weights"]["w"][0])
    return what


@posix
def test_a_kill_at_any_moment_leaves_the_old_run_or_the_new(tmp_path: Path) -> None:
    run, found = tmp_path / "run", []
    make(run, 1)
    for _ in each_kill(lambda: make(run, 2)):
        found.append(says(run))
        make(run, 1)
    assert says(run) == 2
    assert found == sorted(found)
    assert {1, 2} == set(found)
    assert sorted(os.listdir(run)) == ["pruned.safetensors", "run.json", "unpruned.safetensors"]


@posix
def test_a_first_run_is_there_whole_or_said_to_be_unfinished(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in each_kill(lambda: make(run, 1)):
        try:
            folders.read(run)
        except MvpError as error:
            told = str(error)
        else:
            told = ""
        assert "not a finished run" in told or says(run) == 1
        make(run, 2)
        assert says(run) == 2
        shutil.rmtree(run)


@posix
def test_a_power_cut_finds_the_models_before_what_says_that_they_belong_together(
    tmp_path: Path,
    on_disk: list[str],  # noqa: F811
) -> None:
    make(tmp_path / "run", 1)
    models, info = on_disk.index("rename pruned.safetensors"), len(on_disk) - 1 - on_disk[::-1].index("rename run.json")
    assert "flush run" in on_disk[models:info]
    assert "flush run" in on_disk[info:]


@pytest.mark.parametrize("name", folders.MODELS)
def test_a_run_with_a_model_of_another_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path / "a", 1)
    make(tmp_path / "b", 2)
    shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(MvpError, match="not of one run"):
        folders.read(tmp_path / "a")


def _hold(run: Path, begun, go_on) -> None:
    with folders.writing(run):
        begun.set()
        assert go_on.wait(30)


@posix
def test_of_two_processes_writing_one_run_the_second_is_reported(tmp_path: Path) -> None:
    make(tmp_path / "run", 1)
    context = multiprocessing.get_context("fork")
    begun, go_on = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(tmp_path / "run", begun, go_on))
    first.start()
    assert begun.wait(30)
    with pytest.raises(MvpError, match="another process") as error:
        make(tmp_path / "run", 2)
    assert error.value.code == ExitCode.ENVIRONMENT
    assert says(tmp_path / "run") == 1  # readers are not kept out
    go_on.set()
    first.join()
    make(tmp_path / "run", 2)


def bank(place: Path) -> None:
    (place / "tasks").mkdir(parents=True)
    (place / ".work" / ("a" * 16)).mkdir(parents=True)
    (place / "bank.json").write_text("{}")


def thesis(place: Path) -> None:
    place.mkdir()
    (place / "thesis.tex").write_text("years of work")


def run_json_of_another_tool(place: Path) -> None:
    place.mkdir()
    (place / "run.json").write_text('{"project": "mine"}')


def weights_of_another_tool(place: Path) -> None:
    from safetensors.torch import save_file

    place.mkdir()
    save_file({"w": torch.zeros(3)}, place / "pruned.safetensors")


def somebodys_work(place: Path) -> None:
    (place / ".work").mkdir(parents=True)
    (place / ".work/draft.txt").write_text("mine")


@pytest.mark.parametrize("put", [bank, thesis, run_json_of_another_tool, weights_of_another_tool, somebodys_work])
def test_what_is_not_a_run_is_refused_and_untouched(tmp_path: Path, put) -> None:
    put(tmp_path / "place")
    before = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(MvpError) as error:
        make(tmp_path / "place", 1)
    assert error.value.code == ExitCode.INPUT
    assert {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["tasks", "ladder"])
def test_a_banks_folders_are_no_place_for_a_run(name: str, tmp_path: Path) -> None:
    bank(tmp_path / "bank")
    with pytest.raises(MvpError, match="of the bank"):
        make(tmp_path / "bank" / name, 1)


def test_notes_in_a_run_stay_when_it_is_made_again(tmp_path: Path) -> None:
    make(tmp_path / "run", 1)
    (tmp_path / "run/notes.txt").write_text("mine")
    (tmp_path / "run/.work").mkdir()
    (tmp_path / "run/.work/draft.txt").write_text("mine")
    make(tmp_path / "run", 2)
    assert says(tmp_path / "run") == 2
    assert (tmp_path / "run/notes.txt").read_text() == (tmp_path / "run/.work/draft.txt").read_text() == "mine"


def test_a_run_of_an_older_version_is_made_again(tmp_path: Path) -> None:
    make(tmp_path / "run", 1)
    info = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(info | {"format": 1}))
    with pytest.raises(MvpError, match="prune` again"):
        folders.read(tmp_path / "run")
    make(tmp_path / "run", 2)
    assert says(tmp_path / "run") == 2
