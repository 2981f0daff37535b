"""devices.yaml: what is no such file is refused before it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvp_deploy.base.errors import InputError
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


def test_a_folder_in_its_place_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        add(tmp_path, "pi5", {"address": "pi@pi5"})
