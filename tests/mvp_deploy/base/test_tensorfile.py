from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import ExitCode, MvpError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    sections = {
        "weights": {"a": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)},
        "scores": {"g": torch.ones(4)},
    }
    tensorfile.save(path, {"name": "x", "numbers": [1, 2]}, sections)
    return path


def test_what_was_written_is_read(file: Path) -> None:
    header, sections = tensorfile.load(file)
    assert header == {"name": "x", "numbers": [1, 2]} == tensorfile.read_header(file)
    assert torch.equal(sections["weights"]["a"], torch.arange(6.0).reshape(2, 3))
    assert sections["weights"]["count"].shape == ()
    assert sections["weights"]["count"] == 7
    assert tensorfile.load(file, ["scores"])[1].keys() == {"scores"}


def test_equal_content_makes_equal_bytes(file: Path, tmp_path: Path) -> None:
    header, sections = tensorfile.load(file)
    tensorfile.save(tmp_path / "again.safetensors", header, sections)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_every_changed_byte_is_noticed(file: Path) -> None:
    good = file.read_bytes()
    for place in range(0, len(good), 7):
        file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(MvpError):
            tensorfile.load(file)


def test_a_damaged_section_does_not_stop_the_reading_of_another(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # in the last section written: weights
    file.write_bytes(content)
    tensorfile.read_header(file)
    tensorfile.load(file, ["scores"])
    with pytest.raises(MvpError, match="weights"):
        tensorfile.load(file, ["weights"])


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 64, b"{}"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(MvpError, match=r"bad\.safetensors"):
        tensorfile.load(tmp_path / "bad.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MvpError, match="does not exist"):
        tensorfile.read_header(tmp_path / "none.safetensors")


def test_colleagues_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        tensorfile.save(tmp_path / "a.safetensors", {}, {"weights": {"w": torch.ones(2)}})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644


def test_what_may_not_be_read_or_written_is_not_told_as_damaged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: object, *arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", forbidden)
    monkeypatch.setattr(os, "open", forbidden)
    for action in (lambda: tensorfile.read_header(file), lambda: tensorfile.save(file, {}, {})):
        with pytest.raises(MvpError, match=r"cannot be (read|written)") as error:
            action()
        assert error.value.code == ExitCode.ENVIRONMENT


def test_two_files_have_one_identity_only_where_all_in_them_is_equal(tmp_path: Path) -> None:
    def identity(header: str, value: float) -> str:
        tensorfile.save(tmp_path / "a.safetensors", {"h": header}, {"weights": {"w": torch.full((2,), value)}})
        return tensorfile.identity(tmp_path / "a.safetensors")

    assert identity("x", 1) == identity("x", 1)
    assert len({identity("x", 1), identity("y", 1), identity("x", 2)}) == 3
