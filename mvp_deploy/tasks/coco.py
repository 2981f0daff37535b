"""Tasks from COCO's JSON: an image's class is the category of its annotations, where they agree."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import InputError
from mvp_deploy.tasks.listing import Files, Listing

MAX_BYTES = 1 << 30
MAX_NAME = 4096  # characters of a path


def list_coco(path: Path) -> Listing:
    """The images of a COCO file whose annotations all have one category.

    They lie beside the file, in ``images/`` beside it, or in the same places of the folder above, as usual for
    ``annotations/instances_train.json``.

    Raises:
        MvpError: it is not a COCO file, or its images are not found.
    """
    data = _read(path)
    try:
        names = {each["id"]: unicodedata.normalize("NFC", str(each["name"])) for each in data["categories"]}
        files = {each["id"]: str(each["file_name"]) for each in data["images"]}
        if odd := next((name for name in files.values() if len(name) > MAX_NAME or "\0" in name), None):
            raise InputError(f"{path} names an image {odd[:40]!r}…, which no file can be called")
        categories: dict[Any, set[str]] = defaultdict(set)
        for each in data["annotations"]:
            categories[each["image_id"]].add(names[each["category_id"]])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a COCO file ({type(error).__name__}: {str(error)[:200]}): it needs images, annotations and "
            "categories"
        ) from error
    left_out = Counter[str]()
    root = _root(path, list(files.values()))
    found: Files = {}
    for number, file in files.items():
        if len(categories[number]) != 1:
            left_out["images of several categories" if categories[number] else "images without a category"] += 1
            continue
        found.setdefault(next(iter(categories[number])), []).append(root / file)
    return Listing(str(path), {"": found}, left_out)


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 30} GiB")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({str(error)[:200]}): is it a COCO file?") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a COCO file: it needs images, annotations and categories")
    return data


def _root(path: Path, files: list[str]) -> Path:
    """The folder that the file names are relative to."""
    part = path.stem.rpartition("_")[2]  # instances_train2017 -> train2017
    folders = [
        base / name for base in (path.parent, path.parent.parent) for name in ("", "images", part, f"images/{part}")
    ]
    for folder in folders:
        if files and (folder / files[0]).is_file():
            return folder
    looked = ", ".join(str(folder) for folder in folders[:3])
    raise InputError(
        f"the images of {path} are not found, for instance {files[0] if files else 'any'}, in {looked} and above"
    )
