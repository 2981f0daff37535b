"""Reading files that others may have written: bounded, strict, and every mistake a sentence. Standard library alone.

A file format is a frozen dataclass: its writer fills it, and its reader gives it back through `read_json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mvp_deploy.exporters.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.exporters.fields import Malformed
from mvp_deploy.exporters.parsing import encodes, loads, parse

T = TypeVar("T")

MAX_BYTES = 64 * 2**20  # of a JSON file or header: a bank entry's has 100 kB, a report of hundreds of tasks some MB


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


def inside(folder: Path, name: str, source: str = "its manifest") -> Path:
    """The file called ``name`` (with slashes) in ``folder``.

    Raises:
        MvpError: the name that ``source`` gives leads elsewhere: absolute, with ``..``, or through a link.
    """
    parts = name.split("/")
    odd = {"", ".", ".."} & set(parts) or any(char in "\\:" or char < " " for char in name) or not encodes(name)
    if odd or len(name) > 4096 or any(len(part.encode()) > 255 for part in parts):
        raise InputError(f"{folder}: {source} names {name[:200]!r}, which is not a path inside it: do not trust it.")
    file = folder.joinpath(*parts)
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{file} leads out of its folder by a link: do not trust {folder}.")
    return file


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()
