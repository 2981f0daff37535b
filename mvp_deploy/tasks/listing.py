"""Labelled image files, listed by part and class: what tables, COCO files, shards and folders come down to."""

from __future__ import annotations

import csv
import json
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl

from mvp_deploy.base.errors import InputError
from mvp_deploy.tasks.folder import Found, check, class_files, entries
from mvp_deploy.tasks.task import Task, choose, drawn, held_out

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
         "test": "test", "testing": "test"}  # fmt: skip
HELD = {"val": ("val", "valid", "validation"), "test": ("test",)}  # folders of held-out images
Files = dict[str, list[Path]]  # of each class
MAX_MAP = 1 << 20  # bytes of a class map


@dataclass(frozen=True)
class Listing:
    """parts: the one part '' of a source that is not divided; else train with val, test or both."""

    where: str
    parts: Mapping[str, Files]
    left_out: Counter[str] = field(default_factory=Counter)
    folders: Mapping[str, str] = field(default_factory=dict)  # of each part's own one its name, where parts have such

    def place(self, part: str) -> str:
        """Where a part lies, for messages."""
        return os.path.join(self.where, self.folders[part]) if self.folders else f"{self.where}, {part}"


@dataclass(frozen=True)
class Narrowing:
    """``SOURCE?limit=50&class-map=FILE``: which of a source's images are used, and what their classes are called."""

    limit: int | None = None  # images of each class in each part
    class_map: Mapping[str, str] | None = None  # new names; '' leaves a class out


def narrowing(query: str) -> Narrowing:
    """Read what follows the ? of a source. Raises InputError for other words, and for a map that cannot be read."""
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(asked.keys() - {"limit", "class-map"}):
        raise InputError(f"{unknown[0]!r} after a source's ? is unknown: write SOURCE?limit=50&class-map=FILE.")
    limit = asked.get("limit")
    if limit is not None and not (limit.isdecimal() and int(limit) > 1):
        raise InputError(f"the limit {limit!r} is not a number of images of each class: write 2 or more.")
    names = _class_map(Path(os.path.expanduser(asked["class-map"]))) if "class-map" in asked else None
    return Narrowing(None if limit is None else int(limit), names)


def _class_map(path: Path) -> dict[str, str]:
    """New names by old ones, from a JSON mapping or a CSV of two columns without a header."""
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        if path.stat().st_size > MAX_MAP:
            raise ValueError(f"it has more than {MAX_MAP} bytes")
        text = path.read_text(encoding="utf-8")
        rows = list(json.loads(text).items()) if path.suffix == ".json" else list(csv.reader(text.splitlines()))
        names = {str(old).strip(): str(new).strip() for old, new in rows}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"the class map {path} cannot be read ({error}): write lines of OLD,NEW, or a JSON mapping."
        ) from error
    return names


def narrowed(listing: Listing, asked: Narrowing) -> Listing:
    """The listing with classes renamed, merged and left out, and no more images of each than asked for.

    Which images stay depends on their names alone, in no order that a camera gives them.
    """
    parts: dict[str, Files] = {}
    left_out = Counter(listing.left_out)
    there = {name for files in listing.parts.values() for name in files}
    if unknown := sorted((asked.class_map or {}).keys() - there):
        left_out[f"names of the class map that no class has: {', '.join(unknown[:3])}"] = len(unknown)
    for part, files in listing.parts.items():
        kept: Files = {}
        for old, paths in files.items():
            new = (asked.class_map or {}).get(old, old)
            if new:
                kept.setdefault(new, []).extend(paths)
            else:
                left_out["images of classes that the class map leaves out"] += len(paths)
        if asked.limit is not None:
            for name, paths in kept.items():
                kept[name] = sorted(sorted(paths, key=_draw)[: asked.limit])
                left_out["images over the limit"] += len(paths) - len(kept[name])
        parts[part] = kept
    return replace(listing, parts=parts, left_out=+left_out)


def _draw(path: Path) -> tuple[int, str]:
    return zlib.crc32("/".join(path.parts[-2:]).encode("utf-8", "surrogateescape")), str(path)


def task_of(listing: Listing, spec: str, wanted: tuple[str, ...] | None, skip_bad: bool, seed: int | None) -> Task:
    """The task of listed files: as `mvp_deploy.tasks.load.load_task` says, every image decoded once."""
    where, parts = listing.where, {part: files for part, files in listing.parts.items() if files}
    if not parts:
        raise InputError(f"{where} lists no images: see docs/data.md for what it must hold")
    if len(parts) == 1:  # one part alone, whatever its name, is split
        found = _checked(where, next(iter(parts.values())), wanted, skip_bad)
        classes = choose(where, sorted(found.files), wanted)
        whole = found.split(classes)
        mask = held_out(whole, classes, where) if seed is None else drawn(whole, classes, where, seed)
        return Task(
            spec, classes, whole.part(~mask), whole.part(mask), listing.left_out + found.left_out, found.converted
        )
    if "train" not in parts:
        raise InputError(f"{where} has the parts {', '.join(parts)} and no train: name one part train")
    held = "val" if "val" in parts else "test"
    train, test = (_checked(listing.place(part), parts[part], wanted, skip_bad) for part in ("train", held))
    if (lonely := sorted(train.files.keys() ^ test.files.keys())) and not skip_bad:
        there, missing = ("train", held) if lonely[0] in train.files else (held, "train")
        raise InputError(
            f"class {lonely[0]!r} is in {listing.place(there)} but not in {listing.place(missing)}: give both the same "
            "classes, or pass --skip-bad to leave such classes out"
        )
    classes = choose(where, sorted(train.files.keys() & test.files.keys()), wanted)
    left_out = listing.left_out + train.left_out + test.left_out
    if lonely:
        left_out["classes in one part only"] = len(lonely)
    task = Task(spec, classes, train.split(classes), test.split(classes), left_out, train.converted + test.converted)
    if held == "val" and "test" in parts:
        place = listing.place("test")
        return replace(task, final=partial(_final, task, place, parts["test"], wanted is None, skip_bad))
    return task


def _checked(where: str, files: Files, wanted: tuple[str, ...] | None, skip_bad: bool) -> Found:
    chosen = sorted(files) if wanted is None else choose(where, sorted(files), wanted)
    return check(where, {name: files[name] for name in chosen}, Counter(), wanted is not None, skip_bad)


def _final(task: Task, where: str, files: Files, every: bool, skip_bad: bool) -> Task:
    """The task with its third part held out. every: whether all classes were asked for."""
    unknown = sorted(files.keys() - set(task.classes)) if every else []
    if unknown and not skip_bad:
        raise InputError(
            f"class {unknown[0]!r} is in {where} but not in the training images: take it out, rename it with a "
            "class map, or pass --skip-bad to leave such classes out"
        )
    found = check(where, {name: files[name] for name in task.classes if name in files}, Counter(), False, skip_bad)
    left_out = Counter(found.left_out)
    if unknown:
        left_out["classes without training images"] = len(unknown)
    test = Found({name: found.files.get(name, []) for name in task.classes}).split(task.classes)
    return replace(task, test=test, left_out=left_out, converted=found.converted, final=None)


def list_folder(root: Path, wanted: tuple[str, ...] | None, *, strict: bool) -> Listing:
    """A folder of class folders, or one of train/ with val/ or test/, or both, and class folders in them.

    Args:
        wanted: the classes to look into.
        strict: refuse what looks like other data; a source that is narrowed was never read strictly.
    """
    if not entries(root / "train")[0]:  # else «train» may be the name of a class
        files, left_out = class_files(root, wanted, strict=strict)
        return Listing(str(root), {"": files}, left_out)
    held = {part: name for part, names in HELD.items() for name in reversed(names) if (root / name).is_dir()}
    if strict and not held:
        raise InputError(f"{root} has train/ but neither val/ nor test/: add one, with the same classes")
    parts, left_out, folders = {}, Counter[str](), {"train": "train", **held}
    for part, name in folders.items():
        third = part not in [*folders][:2]  # which is read when it is asked for
        parts[part], beside = class_files(root / name, wanted, strict=strict and not third)
        left_out += Counter() if third else beside
    if held and (others := sorted(entries(root)[0].keys() - {*folders.values()})):
        where = ", ".join(f"{name}/" for name in folders.values())
        left_out[f"folders beside {where}: {', '.join(others[:3])}"] = len(others)
    return Listing(str(root), parts, left_out, folders)


def part_of(name: str, where: str) -> str:
    """train, val or test, from what a source calls its part; '' from nothing."""
    if name.strip().lower() in PARTS:
        return PARTS[name.strip().lower()]
    if not name.strip():
        return ""
    raise InputError(f"{where} has the part {name!r}: call parts train, val and test")


def merged(parts: Mapping[str, Sequence[tuple[str, Path]]]) -> dict[str, Files]:
    """Files by class, from pairs of class and file in each part, each file once."""
    found: dict[str, Files] = {}
    for part, pairs in parts.items():
        files: Files = found.setdefault(part, {})
        for name, path in dict.fromkeys(pairs):
            files.setdefault(name, []).append(path)
    return found
