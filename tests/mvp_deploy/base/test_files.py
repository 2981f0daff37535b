from __future__ import annotations

import errno
import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kills import posix

from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.base.files import atomic_write, locked, remove_leftovers, sha256, write_text


def test_a_finished_write_is_there_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".json"
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@posix
def test_what_is_not_a_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(MvpError, match="is not a file"):
            write_text(tmp_path / name, "lost")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_has_no_sha256_nor_have_pipes_which_would_be_waited_for(tmp_path: Path) -> None:
    with pytest.raises(MvpError, match="is not a file: check the path"):
        sha256(tmp_path)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    content = b"units" * 400_000  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_who_may_read_is_what_the_umask_says(tmp_path: Path) -> None:
    """safetensors alone makes files that a colleague on the same disk cannot read."""
    before = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk/a")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk/a").read_text() == "new"


@pytest.mark.parametrize(
    ("number", "cure"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "you may write to"), (errno.EIO, "check")]
)
def test_whatever_keeps_a_file_from_being_written_is_a_sentence(tmp_path: Path, number: int, cure: str) -> None:
    with pytest.raises(MvpError, match=cure) as error, atomic_write(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert error.value.code == ExitCode.ENVIRONMENT
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_a_name_may_be_is_written(tmp_path: Path) -> None:
    write_text(tmp_path / os.fsdecode("ß".encode() * 120 + b".json"), "{}")  # by its bytes, in any locale
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_one_file_are_not_those_of_another(tmp_path: Path) -> None:
    for name in (".a.0123456789abcdef.tmp.json", ".a.b.0123456789abcdef.tmp.json", ".a.notes.tmp.json"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.b.0123456789abcdef.tmp.json", ".a.notes.tmp.json"]


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", "busy"), locked(tmp_path / "lock", "busy"):
        with ThreadPoolExecutor(1) as other, pytest.raises(MvpError, match="busy") as error:
            other.submit(lambda: locked(tmp_path / "lock", "busy").__enter__()).result()
        assert error.value.code == ExitCode.ENVIRONMENT
    assert list(tmp_path.iterdir()) == []


def test_somebodys_file_of_a_locks_name_stays(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("mine")
    with locked(tmp_path / "lock", "busy"):
        pass
    assert (tmp_path / "lock").read_text() == "mine"


@posix
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with locked(tmp_path / "lock", "busy"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "lock").exists()
    with locked(tmp_path / "lock", "busy"):
        pass
    assert list(tmp_path.iterdir()) == []
