"""The programs in a bundle: example.py, and where there is a model for them example.cpp and example.html."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = "example.py", "example.cpp", "example.html"


def examples(folder: Path) -> dict[str, str]:
    """The programs for a folder that is about to become a bundle, by name."""
    return {"example.py": _python(), **_elsewhere(folder)}


def _python() -> str:
    """example.py, with the module that reads images in it, so that it runs without this program."""
    imported = "from mvp_deploy.tasks.picture import Unreadable, decode, read\n"
    reading = (HERE.parent / "tasks" / "picture.py").read_text(encoding="utf-8")
    return (HERE / "example.py").read_text(encoding="utf-8").replace(imported, reading)


def _elsewhere(folder: Path) -> dict[str, str]:
    """The programs in C++ and for browsers: an ONNX file that takes floats, and known preprocessing, are needed."""
    file = next(_onnx(folder), None) if (folder / "preprocessing.json").is_file() else None
    if file is None:
        return {}
    how, labels = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("preprocessing", "labels")
    )
    return {
        "example.cpp": _filled("example.cpp", file, how, ", ".join(map(_cpp, labels))),
        "example.html": _filled("example.html", file, how, ", ".join(map(_javascript, labels))),
    }


def _onnx(folder: Path) -> Iterator[str]:
    """Names of the bundle's own ONNX files, as example.py would take them: fp32 first."""
    models = json.loads((folder / "bundle.json").read_text(encoding="utf-8")).get("models", ())
    for precision in ("fp32", "fp16", "int8"):
        for each in models:
            if (each["model"] != "unpruned", each["target"], each["precision"]) == (True, "onnx", precision):
                yield Path(each["file"]).name


def _filled(name: str, file: str, how: Mapping[str, Any], labels: str) -> str:
    _, height, width = how["input_size"]
    values = {
        "FILE": file,
        "WIDTH": width,
        "HEIGHT": height,
        "MEAN": ", ".join(f"{value:.8f}" + "f" * name.endswith("cpp") for value in how["mean"]),
        "STD": ", ".join(f"{value:.8f}" + "f" * name.endswith("cpp") for value in how["std"]),
        "CROP": how["crop_pct"],
        "MODE": how["crop_mode"],
        "LABELS": labels,
    }
    text = (HERE / name).read_text(encoding="utf-8")
    for key, value in values.items():  # labels, which users write, come last
        text = text.replace(f"@{key}@", str(value))
    return text


def _cpp(label: str) -> str:
    """A string literal: what is not a letter or a digit as octal bytes, which take exactly three digits."""
    plain = (chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03o}" for byte in label.encode())
    return f'"{"".join(plain)}"'


def _javascript(label: str) -> str:
    """A string literal that cannot end the script it stands in."""
    return json.dumps(label).replace("<", "\\u003c")
