"""From JSON to the values of a dataclass: strict, and every mistake named by its place.

Types say what a field may hold (``int`` is not ``True``, ``float`` is finite), ``Annotated`` adds bounds:

    @dataclass(frozen=True)
    class Timing:
        median_ms: Annotated[float, Within(0, 1e9)]
        precision: Literal["fp32", "fp16"]
        remarks: tuple[str, ...] = ()  # missing in files that older versions wrote

Unknown keys, repeated keys, and values that a field's type does not allow are refused:
«rows.3.timing.median_ms is -1.0: it must be from 0 to 1e+09».
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from mvp_deploy.exporters.errors import MvpError
from mvp_deploy.exporters.fields import Malformed

T = TypeVar("T")

MAX_DEPTH = 32
LARGEST = 2**63  # of a whole number


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
    if "\0" in text or not (text.isascii() or encodes(text)):
        raise Malformed(f"{where[:100] or 'it'} has a character that no text has")


def encodes(text: str) -> bool:
    """Whether UTF-8 can hold the text."""
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
