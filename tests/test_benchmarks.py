"""Every script under benchmarks/ still starts: what it imports is there, and its options parse."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"
PARSERS = ("ArgumentParser", "click.command", "click.group")
COMPARED = ("torch_pruning",)  # other people's packages, which may not be installed


def test_each_starts() -> None:
    """All in one process of its own: some register models with timm."""
    done = subprocess.run([sys.executable, "-W", "ignore", __file__], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


def failures() -> Iterator[str]:
    for file in sorted(FOLDER.rglob("*.py")):
        try:
            start(file)
        except Exception as error:
            if not (isinstance(error, ModuleNotFoundError) and error.name in COMPARED):
                yield f"{file.relative_to(FOLDER)}: {type(error).__name__}: {error}"


def start(file: Path) -> None:
    """Ask a script for --help where it has options; import any other."""
    text, known = file.read_text(encoding="utf-8"), set(sys.modules)
    has_options = "__main__" in text and any(parser in text for parser in PARSERS)
    sys.path.insert(0, str(file.parent))
    sys.argv = [str(file), "--help"]
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            runpy.run_path(str(file), run_name="__main__" if has_options else "imported")
    except SystemExit as end:
        if end.code or "usage" not in said.getvalue().lower():
            raise RuntimeError(f"--help ends with {end.code}") from end
    finally:
        sys.path.remove(str(file.parent))
        for name in set(sys.modules) - known:  # another folder's module may have the same name
            if FOLDER in Path(getattr(sys.modules[name], "__file__", None) or "/").parents:
                del sys.modules[name]


if __name__ == "__main__":
    sys.path.pop(0)  # this folder has one called mvp_deploy
    sys.exit("\n".join(failures()) or 0)
