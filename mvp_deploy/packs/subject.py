"""What is packed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from mvp_deploy.bundle import Bundle, ModelFile
from mvp_deploy.tasks import Preprocessing


@dataclass(frozen=True)
class Subject:
    """One model of a bundle, on its way to a server or a hub."""

    bundle: Bundle
    file: ModelFile
    preprocessing: Preprocessing
    name: str
    out: Path  # where the folder will lie

    @cached_property
    def source(self) -> Path:
        return self.bundle.path / self.file.file

    @property
    def bytes_in(self) -> bool:
        """Whether the model takes bytes and normalises them itself."""
        return self.file.target == "onnx-uint8"


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled; a name that it misses is an error, not an empty place."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("mvp_deploy.packs").joinpath(template).read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(text).render(**values)
