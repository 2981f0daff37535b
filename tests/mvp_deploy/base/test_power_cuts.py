"""What a power cut must find: contents are on the disk before their name is, and the name before the work goes on."""

from __future__ import annotations

from pathlib import Path

from kills import on_disk, posix  # noqa: F401

from mvp_deploy.base.files import write_text
from mvp_deploy.base.folders import atomic_folder

pytestmark = posix


def test_a_file_s_contents_then_its_name(tmp_path: Path, on_disk: list[str]) -> None:  # noqa: F811
    write_text(tmp_path / "there" / "a.json", "whole")
    flushed, renamed, folder = on_disk
    assert flushed.startswith("flush .a.")
    assert (renamed, folder) == ("rename a.json", "flush there")


def test_a_folder_s_files_then_its_name(tmp_path: Path, on_disk: list[str]) -> None:  # noqa: F811
    place = tmp_path / "there" / "bundle"
    place.parent.mkdir()
    for content in ("old", "new"):
        on_disk.clear()
        with atomic_folder(place, lambda: None, lambda path: None) as fresh:
            (fresh / "model").write_text(content)
        swapped = on_disk.index("rename bundle")
        assert on_disk.index("flush model") < swapped
        assert on_disk.index("flush bundle") < swapped
        assert "flush there" in on_disk[swapped:]
