"""A strict reader: what a type does not allow is refused by its place, and a file is read within bounds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from mvp_deploy.exporters.errors import InputError, MvpError
from mvp_deploy.exporters.fields import Malformed, Share, Within
from mvp_deploy.exporters.formats import inside, read_bytes, read_json, reading_errors, sealed, unsealed
from mvp_deploy.exporters.parsing import loads, parse


@dataclass(frozen=True)
class Row:
    name: Annotated[str, Within(1, 5)]
    share: Share
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Table:
    rows: tuple[Row, ...]
    size: tuple[int, int]
    extra: Mapping[str, float | None]
    whole: bool = True
    free: Any = None

    def __post_init__(self) -> None:
        if self.size[0] > self.size[1]:
            raise InputError("size must rise")


GOOD = Table((Row("x", 0.5), Row("y", 1.0, "b")), (1, 2), {"p": 1.5, "q": None}, False, {"z": [1, "2"]})


def content(**changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(GOOD))) | changes


def test_what_a_writer_wrote_comes_back_equal(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(asdict(GOOD)))
    assert read_json(tmp_path / "t.json", Table, cure="write it again") == GOOD
    assert parse(Table, {"rows": [], "size": [0, 0], "extra": {}}) == Table((), (0, 0), {})  # an older file


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "it is a list: it must be a mapping"),
        (content(rows={}), "rows is a mapping: it must be a list"),
        (content(rows=[{"name": "x"}]), "rows.0.share is missing"),
        (content(rows=[{"name": "x", "share": True}]), "rows.0.share is True: it must be a finite number"),
        (content(rows=[{"name": "x", "share": 2}]), "rows.0.share is 2: it must be from 0 to 1"),
        (content(rows=[{"name": "x" * 6, "share": 1}]), "rows.0.name is 'xxxxxx': its length must be from 1 to 5"),
        (content(rows=[{"name": "x", "share": 1, "kind": "c"}]), "rows.0.kind is 'c': it must be a or b"),
        (content(rows=[{"name": "x", "share": 1, "kid": "a"}]), "rows.0.kid is there, which no version wrote"),
        (content(size=[1]), "size is a list: it must have 2 values"),
        (content(size=[1.0, 2]), "size.0 is 1.0: it must be a whole number"),
        (content(size=[True, 2]), "size.0 is True: it must be a whole number"),
        (content(size=[2, 1]), "size must rise"),
        (content(extra={"p": "1"}), "extra.p is '1': it must be a finite number"),
        (content(extra={"p": float("nan")}), "extra.p is nan: it must be a finite number"),
        (content(whole=None), "whole is None: it must be true or false"),
    ],
)
def test_what_the_types_do_not_allow_is_refused_by_its_place(data: Any, told: str) -> None:
    with pytest.raises(Malformed) as error:
        parse(Table, data)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 9223372036854775808}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 2}',
        b'"\\ud800"',
        b'{"\\u0000": 1}',
        b"[" * 10_000 + b"]" * 10_000,
        b"[" * 40 + b"]" * 40,
        b'{"a":' * 10_000,
    ],
)
def test_json_that_others_would_take_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed):
        loads(text)


def test_a_seal_shows_every_change() -> None:
    data = sealed({"a": 1, "b": [0.1, "x"]})
    assert unsealed(json.loads(json.dumps(data))) == {"a": 1, "b": [0.1, "x"]}
    for changed in ({**data, "a": 2}, {**data, "c": 1}, {"a": 1, "b": [0.1, "x"]}, {**data, "sha256": "0" * 64}, []):
        with pytest.raises(Malformed):
            unsealed(changed)


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../x", "a//x", "./x", "a\\x", "C:x", "a\nb", "\0", "\ud800",
                                  "x" * 300, "link/x"])  # fmt: skip
def test_no_name_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    assert inside(folder, "models/pruned.onnx") == folder / "models" / "pruned.onnx"
    with pytest.raises(MvpError, match="do not trust"):
        inside(folder, name)


def test_only_plain_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "large").write_bytes(b"x" * 11)
    for name, told, code in (
        ("pipe", "is not a file", 2),
        (".", "is not a file", 2),
        ("none", "does not exist", 2),
        ("large/x", "does not exist", 2),
        ("large", "more than 10 bytes", 2),
        ("circle", "cannot be read", 6),
        ("x" * 5000, "cannot be read", 6),
        ("a\0b", "is not the name of a file", 2),
    ):
        with pytest.raises(MvpError) as error:
            read_bytes(tmp_path / name, 10)
        assert told in str(error.value)
        assert error.value.code == code
    assert read_bytes(tmp_path / "large", 11) == b"x" * 11


def test_a_disk_that_fails_is_a_sentence_of_the_environment() -> None:
    with pytest.raises(MvpError, match=r"x cannot be read \(Input/output error\)") as error, reading_errors("x"):
        raise OSError(5, "Input/output error")
    assert error.value.code == 6
