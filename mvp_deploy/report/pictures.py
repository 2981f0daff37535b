"""Images of a task as small pictures inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mvp_deploy.tasks.folder import read_image
from mvp_deploy.tasks.task import Split

EDGE = 128  # pixels


@dataclass(frozen=True)
class Picture:
    """data: a ``data:`` address, so that the page needs no other file."""

    data: str
    caption: str


def picture(split: Split, number: int, caption: str) -> Picture:
    """An image of the split.

    Raises:
        MvpError: its file cannot be read.
    """
    source = split.images[number]
    image = Image.fromarray(read_image(source) if isinstance(source, Path) else source)
    image.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", caption)
