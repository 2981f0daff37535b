"""Reading what others may have written: bounded, strict, and every mistake a sentence. The standard library alone.

A file format is a frozen dataclass: its writer fills it, and its reader gives it back through ``read_json``. Types say
what a field may hold (``int`` is no ``True``, ``float`` is finite), ``Annotated`` adds bounds:

    @dataclass(frozen=True)
    class Timing:
        median_ms: Annotated[float, Within(0, 1e9)]
        precision: Literal["fp32", "fp16"]
        remarks: tuple[str, ...] = ()  # files written before it was there have none

Unknown keys, keys that are there twice, and what a field's type does not allow are refused by their place:
«rows.3.timing.median_ms is -1.0: it must be from 0 to 1e+09».
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import types
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from mvp_deploy.exporters.errors import EnvironmentMissing, InputError, MvpError

T = TypeVar("T")

MAX_BYTES = 64 * 2**20  # of a JSON file or header: a bank entry's has 100 kB, a report of hundreds of tasks some MB
MAX_DEPTH = 32
LARGEST = 2**63  # of a whole number


class Malformed(ValueError):
    """What is wrong with a content, and where: the middle of a sentence."""


class Rule:
    """What a field's value must keep to, as an annotation of its type: `parse` and pydantic ask it."""

    def __call__(self, value: Any) -> str | None:
        """What is wrong with the value; None if nothing is."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def check(value: Any) -> Any:
            if wrong := self(value):
                raise ValueError(wrong)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


@dataclass(frozen=True)
class Within(Rule):
    """Bounds of a number, or of the length of a text, list or mapping; both are allowed, unless ``above`` excludes
    the low one."""

    low: float
    high: float
    above: bool = False

    def __call__(self, value: Any) -> str | None:
        size = value if isinstance(value, int | float) else len(value)
        return None if self.holds(size) else f"{'it' if size is value else 'its length'} must be {self}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        schema = handler(source)
        if schema["type"] in ("int", "float"):  # which says the bounds in the JSON schema, too
            return schema | {"gt" if self.above else "ge": self.low, "le": self.high, "strict": True}
        return super().__get_pydantic_core_schema__(source, handler)

    def holds(self, value: float) -> bool:
        """Whether a number lies within; NaN lies nowhere, and a whole number may be longer than any float."""
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        return f"{'above' if self.above else 'from'} {self.low:g} {'and at most' if self.above else 'to'} {self.high:g}"


@dataclass(frozen=True)
class Like(Rule):
    """The pattern a text matches, and what it then is."""

    pattern: str
    what: str

    def __call__(self, value: Any) -> str | None:
        return None if re.fullmatch(self.pattern, value) else f"it must be {self.what}"


Share = Annotated[float, Within(0, 1)]
Amount = Annotated[float, Within(0, 1e18)]  # seconds, bytes, steps: what cannot be negative
Count = Annotated[int, Within(0, 2**53)]
Size = Annotated[int, Within(1, 2**31)]
Sha256 = Annotated[str, Like("[0-9a-f]{64}", "the 64 hex digits of a SHA-256")]
Word = Annotated[str, Like(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", "one word")]
Classes = Annotated[tuple[Annotated[str, Within(1, 10_000)], ...], Within(1, 1_000_000)]


def read_json(
    path: str | os.PathLike[str],
    kind: type[T],
    *,
    cure: str,
    missing: str | None = None,
    versions: Collection[int] = (),
) -> T:
    """The content of a JSON file as ``kind``.

    Args:
        cure: what to do about a damaged file: «copy the bundle again».
        missing: the whole sentence for a file that is not there.
        versions: what its ``format`` may be; any if there are none.

    Raises:
        MvpError: (INPUT) it is not there, not a file, or not as ``kind`` says; (ENVIRONMENT) it cannot be read.
    """
    content = read_bytes(path, missing=missing)
    try:
        data = loads(content)
        found = data.get("format") if isinstance(data, dict) else None
        if versions and found not in versions:
            told = f"{Path(path)} has format {str(found)[:20]}, this version reads {' and '.join(map(str, versions))}"
            raise InputError(f"{told}: {cure}, or use the mvp-deploy that wrote it.")
        return parse(kind, data)
    except Malformed as error:
        raise damaged(path, error, cure) from error


def read_as(
    path: str | os.PathLike[str],
    kind: type,
    *,
    cure: str,
    missing: str | None = None,
    versions: Collection[int] = (),
) -> dict[str, Any]:
    """The content of a JSON file that is as ``kind`` says, as plain values. Arguments and errors as of `read_json`."""
    data: dict[str, Any] = read_json(path, dict, cure=cure, missing=missing, versions=versions)
    try:
        parse(kind, data)
    except Malformed as error:
        raise damaged(path, error, cure) from error
    return data


def damaged(path: str | os.PathLike[str], what: object, cure: str) -> MvpError:
    """The sentence for a file whose content is not what it should be."""
    return InputError(f"{Path(path)} is damaged ({what}): {cure}.")


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_BYTES, missing: str | None = None) -> bytes:
    """All of a plain file of at most ``limit`` bytes. Raises MvpError as `read_json` does."""
    with reading_errors(path, missing):
        plain_file(path)
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{Path(path)} has more than {limit:,} bytes, which no such file has: check the path.")
    return content


def plain_file(path: str | os.PathLike[str]) -> None:
    """Refuse a folder, a pipe or a device, which open would take or wait for. OSError if there is nothing."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{Path(path)} is not a file: check the path.")


@contextmanager
def reading_errors(path: str | os.PathLike[str], missing: str | None = None) -> Iterator[None]:
    """Tell an OSError of the block as the sentence that ``path`` cannot be read, and why.

    Raises:
        MvpError: (INPUT) there is no such file; (ENVIRONMENT) anything else the system says.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(missing or f"{Path(path)} does not exist: check the path.") from error
    except OSError as error:
        raise EnvironmentMissing(
            f"{Path(path)} cannot be read ({error.strerror or error}): check its permissions and the disk behind it.",
        ) from error
    except (ValueError, RuntimeError) as error:  # of a path: a NUL in it; a circle of links, by some Pythons
        if isinstance(error, Malformed) or type(error) not in (ValueError, RuntimeError, UnicodeEncodeError):
            raise
        raise InputError(f"{str(path)!r} is not the name of a file ({error}): check the path.") from error


def loads(content: bytes) -> Any:
    """JSON in UTF-8 with finite numbers, each key once, and at most `MAX_DEPTH` levels.

    Raises:
        Malformed: it is something else.
    """
    try:
        data = json.loads(
            content.decode(),
            object_pairs_hook=_once,
            parse_constant=_refuse,
            parse_int=_whole,
            parse_float=_finite,
        )
    except Malformed:
        raise
    except RecursionError as error:
        raise Malformed(f"it has more than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise Malformed(f"it is not JSON: {error}") from error
    _plain(data, "", 0)
    return data


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with a checksum of themselves under ``sha256``."""
    return {**data, "sha256": _digest(data)}


def unsealed(data: Any) -> dict[str, Any]:
    """The data without their checksum. Raises Malformed if they are not those that were `sealed`."""
    if not isinstance(data, dict) or "sha256" not in data:
        raise Malformed("it has no checksum of itself")
    rest = {key: value for key, value in data.items() if key != "sha256"}
    if data["sha256"] != _digest(rest):
        raise Malformed("it was changed since it was written: its checksum does not match")
    return rest


def parse(kind: type[T], data: Any, where: str = "") -> T:
    """JSON values as ``kind``: a dataclass, or whatever a dataclass's field may be.

    Raises:
        Malformed: a value is not as its type says, with its place.
    """
    return cast(T, _parse(kind, data, where))


def check(value: Any) -> None:
    """Raise Malformed if a field of a dataclass is not as its type says."""
    for name, (_, hint) in _known(type(value)).items():  # type: ignore[arg-type]  # a class is hashable
        _parse(hint, getattr(value, name), name)


def inside(folder: Path, name: str, source: str = "its manifest") -> Path:
    """The file called ``name`` (with slashes) in ``folder``.

    Raises:
        MvpError: the name that ``source`` gives leads elsewhere: absolute, with ``..``, or through a link.
    """
    parts = name.split("/")
    odd = {"", ".", ".."} & set(parts) or any(char in "\\:" or char < " " for char in name) or not _encodes(name)
    if odd or len(name) > 4096 or any(len(part.encode()) > 255 for part in parts):
        raise InputError(f"{folder}: {source} names {name[:200]!r}, which is not a path inside it: do not trust it.")
    file = folder.joinpath(*parts)
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{file} leads out of its folder by a link: do not trust {folder}.")
    return file


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Malformed(f"the key {next(key for key in keys if keys.count(key) > 1)[:100]!r} is there twice")
    return found


def _refuse(text: str) -> float:
    raise Malformed(f"{text} is not a number")


def _whole(text: str) -> int:
    if len(text) > 20 or not -LARGEST <= int(text) < LARGEST:
        raise Malformed(f"{text[:20]}… is too large a number")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Malformed(f"{text[:30]} is too large a number")
    return value


def _plain(data: Any, where: str, depth: int) -> None:
    """Refuse what is nested too deep, and texts that UTF-8 or the C library cannot hold."""
    if depth > MAX_DEPTH:
        raise Malformed(f"it has more than {MAX_DEPTH} levels at {where[:100]}")
    if isinstance(data, str):
        _text(data, where)
    elif isinstance(data, dict):
        for key, value in data.items():
            _text(key, where)
            _plain(value, _at(where, key), depth + 1)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            if not isinstance(value, int | float):
                _plain(value, _at(where, index), depth + 1)


def _text(text: str, where: str) -> None:
    if "\0" in text or not (text.isascii() or _encodes(text)):
        raise Malformed(f"{where[:100] or 'it'} has a character that no text has")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _at(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _parse(kind: Any, data: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin is Annotated:
        kind, *checks = get_args(kind)
        value = _parse(kind, data, where)
        for check in checks:
            if wrong := check(value):
                raise _wrong(where, data, wrong)
        return value
    if origin in (Union, types.UnionType):
        return _any_of(get_args(kind), data, where)
    if origin is Literal:
        if not any(data == each and type(data) is type(each) for each in get_args(kind)):
            raise _wrong(where, data, f"it must be {' or '.join(map(str, get_args(kind)))}")
        return data
    if origin is tuple:
        return _tuple(get_args(kind), data, where)
    if origin is list:
        return list(_tuple((*get_args(kind), ...), data, where))
    if origin is not None and issubclass(origin, Mapping):
        _must(isinstance(data, dict), where, data, "it must be a mapping")
        return {key: _parse(get_args(kind)[1], value, _at(where, key)) for key, value in data.items()}
    if is_dataclass(kind):
        return _fields(cast(type, kind), data, where)
    return _scalar(kind, data, where)


def _scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    if kind is float:
        good = isinstance(data, int | float) and not isinstance(data, bool) and math.isfinite(data)
        _must(good, where, data, "it must be a finite number")
        return float(data)
    if isinstance(kind, type) and issubclass(kind, Enum):
        _must(any(type(data) is type(each.value) and data == each.value for each in kind), where, data, "it is unknown")
        return kind(data)
    names = {str: "a text", int: "a whole number", bool: "true or false", type(None): "null", dict: "a mapping"}
    _must(type(data) is kind, where, data, f"it must be {names[kind]}")
    return data


def _any_of(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    wrong = []
    for kind in (each for each in kinds if each is not type(None)):
        try:
            return _parse(kind, data, where)
        except Malformed as error:
            wrong.append(error)
    raise wrong[0]


def _tuple(kinds: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    _must(isinstance(data, list | tuple), where, data, "it must be a list")
    if len(kinds) == 2 and kinds[1] is ...:
        kinds = (kinds[0],) * len(data)
    _must(len(data) == len(kinds), where, data, f"it must have {len(kinds)} values")
    return tuple(
        _parse(kind, value, _at(where, index)) for index, (kind, value) in enumerate(zip(kinds, data, strict=True))
    )


def _fields(kind: type[Any], data: Any, where: str) -> Any:
    _must(isinstance(data, dict), where, data, "it must be a mapping")
    known = _known(kind)  # type: ignore[arg-type]  # a class is hashable
    for key in data:
        if key not in known:
            raise Malformed(f"{_at(where, key)[:200]} is there, which no version wrote")
    values = {}
    for name, (field, hint) in known.items():
        if name in data:
            values[name] = _parse(hint, data[name], _at(where, name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise Malformed(f"{_at(where, name)} is missing")
    try:
        return kind(**values)
    except MvpError as error:  # what the dataclass itself refuses
        raise Malformed(f"{where}: {error}" if where else str(error)) from error


@cache
def _known(kind: Any) -> Mapping[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: (field, hints[field.name]) for field in fields(kind) if field.init}


def _must(good: bool, where: str, data: Any, what: str) -> None:
    if not good:
        raise _wrong(where, data, what)


def _wrong(where: str, data: Any, what: str) -> Malformed:
    names = {"dict": "a mapping", "list": "a list"}
    shown = names.get(type(data).__name__) or repr(data[:60] if isinstance(data, str) else data)
    return Malformed(f"{where[:200] or 'it'} is {shown}: {what}")
