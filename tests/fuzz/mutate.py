"""What can be wrong with a file: every field of a JSON file, its bytes, and the file itself. All in a fixed order."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

RAW = {  # texts that json.dumps does not write, by the text that stands for them
    "@nan": "NaN",
    "@inf": "-Infinity",
    "@huge": "1e999",
    "@digits": "9" * 5000,
    "@deep": "[" * 10_000 + "]" * 10_000,
    "@twice": '{"a": 1, "a": 2}',
    "@half": '"\\ud800"',
    "@nul": '"a\\u0000b"',
}
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 1e300, 0.5, "", "x", "x" * 100_000, "../x", "/etc/passwd", "a\\b", "C:\\x",
    "\x1b[2J", [], [None], {}, {"": 0}, *RAW,
)  # fmt: skip
GONE = object()


def fields(data: Any) -> Iterator[tuple[str, bytes]]:
    """The JSON text of ``data`` with every value in turn missing, or another; named by place and value."""
    for place in places(data):
        for value in (GONE, *VALUES):
            if value is not GONE and changed(data, place, value) == data:
                continue
            name = "gone" if value is GONE else repr(value)[:20]
            yield f"{'.'.join(map(str, place))} = {name}", text(changed(data, place, value))
    for name, raw in (("empty", b""), ("list", b"[]"), ("null", b"null"), ("mark", b"\xef\xbb\xbf" + text(data))):
        yield name, raw
    yield "more", text({**data, "more": 1} if isinstance(data, dict) else data)


def changed(data: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """A copy of the data with one value another, or gone."""
    copy = deepcopy(data)
    if not place:
        return None if value is GONE else value
    parent = copy
    for part in place[:-1]:
        parent = parent[part]
    if value is GONE:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return copy


def text(data: Any) -> bytes:
    """JSON with the texts of `RAW` put in."""
    found = json.dumps(data)
    for name, raw in RAW.items():
        found = found.replace(json.dumps(name), raw)
    return found.encode()


def contents(content: bytes, count: int = 40, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """A file's content cut short, with flipped bits, doubled, and with odd sizes at its beginning."""
    draw = random.Random(seed)
    size = len(content)
    cuts = {0, 1, 7, 8, 9, size // 2, size - 1, *(draw.randrange(size) for _ in range(count // 4))}
    for cut in sorted(cut for cut in cuts if cut < size):
        yield f"cut at {cut}", content[:cut]
    for _ in range(count):
        place, bit = draw.randrange(size), draw.randrange(8)
        yield f"bit {bit} of {place}", content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    for number in (0, 1, 2**31, 2**63 - 1, 2**64 - 1):
        yield f"begins with {number}", struct.pack("<Q", number) + content[8:]
    yield "twice", content * 2
    yield "noise", draw.randbytes(4096)


def odd_files(path: Path) -> Iterator[str]:
    """The file in turn: missing, empty, a folder, a pipe, a circle of links, a dead link, a device."""

    def folder() -> None:
        path.mkdir()

    made: dict[str, Callable[[], Any]] = {
        "missing": lambda: None,
        "empty": path.touch,
        "folder": folder,
        "pipe": lambda: os.mkfifo(path),
        "circle": lambda: path.symlink_to(path.name),
        "dead link": lambda: path.symlink_to("nowhere"),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    for name, make in made.items():
        remove(path)
        make()
        yield name


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def places(data: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if place:
        yield place
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*place, key))
    elif isinstance(data, list):
        for index, value in enumerate(data[:2]):  # the others are alike
            yield from places(value, (*place, index))
