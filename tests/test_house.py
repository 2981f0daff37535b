"""The house is as CONTRIBUTING draws it, and its arrows point down."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_arrows_point_down_and_no_room_has_a_circle() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_map_names_every_room_and_none_that_is_not_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^      ([a-z]+)/ ", text, re.M))
    rooms = {path.parent.name for path in (ROOT / "mvp_deploy").glob("*/__init__.py") if not path.parent.is_symlink()}
    assert drawn == rooms


def test_nothing_imports_exporters_or_calibration_by_their_short_names() -> None:
    """A user's own file or folder called calibration would be taken for ours, or ours be loaded twice."""
    short = re.compile(r"^\s*(from|import) (exporters|calibration)\b", re.M)
    sources = [
        file
        for top in ("mvp_deploy", "exporters", "calibration", "tests", "benchmarks")
        for file in (ROOT / top).rglob("*.py")
    ]
    assert [str(file) for file in sources if short.search(file.read_text(encoding="utf-8"))] == []


def test_text_files_are_written_and_read_as_utf_8() -> None:
    """Whatever the locale: ruff's PLW1514 knows only paths whose type it can see."""
    nameless = [
        f"{file}:{call.lineno}"
        for top in ("mvp_deploy", "exporters", "calibration")
        for file in (ROOT / top).rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in ("read_text", "write_text")
        if "encoding" not in {keyword.arg for keyword in call.keywords}
    ]
    assert nameless == []
