"""Tasks from a CSV file: a line for each image, with its path and its label, perhaps its part."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections import defaultdict
from pathlib import Path

from mvp_deploy.base.errors import InputError
from mvp_deploy.tasks.listing import Listing, merged, part_of

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "category", "target", "class_name"),
    "part": ("split", "part", "subset", "set"),
}
MAX_BYTES = 1 << 30


def list_table(path: Path) -> Listing:
    """The images that a CSV names: paths relative to its folder, or absolute.

    Raises:
        MvpError: it has no columns for path and label, or a line lacks one.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES >> 30} GiB: divide it")
    parts: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = {key: _column(rows.fieldnames or (), names) for key, names in COLUMNS.items()}
            if columns["path"] is None or columns["label"] is None:
                has = ", ".join(rows.fieldnames or ())
                raise InputError(
                    f"{path} begins with {has or 'nothing'}: its first line must name path and label (and split, for "
                    "train, val and test), with commas between"
                )
            for row in rows:
                where, label = row[columns["path"]], row[columns["label"]]
                if not where or not label:
                    raise InputError(f"line {rows.line_num} of {path} lacks its path or its label: fill it in")
                part = part_of(row[columns["part"]] or "", str(path)) if columns["part"] else ""
                parts[part].append(
                    (unicodedata.normalize("NFC", label.strip()), path.parent / os.path.expanduser(where))
                )
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a CSV in UTF-8 ({error}): save it as one") from error
    return Listing(str(path), merged(parts))


def _column(names: object, known: tuple[str, ...]) -> str | None:
    return next((name for name in names if name and name.strip().lower() in known), None)  # type: ignore[attr-defined]
