"""One file of tensors with a JSON header, where everything that is read is checked against its checksum.

A safetensors file (no pickle). Tensors are named ``section/name``; the header keeps a SHA-256 per section
and one of itself, so that a reader who wants only the header, or one section, checks exactly what it reads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mvp_deploy.base import formats
from mvp_deploy.base.errors import InputError, MvpError
from mvp_deploy.base.files import atomic_write, unwritable
from mvp_deploy.base.formats import Malformed, Sha256

if TYPE_CHECKING:
    from torch import Tensor

KEY = "mvp-deploy"  # in safetensors' metadata: SHA-256 of the JSON text, then the text
BEGIN = f'{{"__metadata__":{{"{KEY}":'  # how safetensors begins a file of ours
CURE = "restore it from a copy, or make it again"
Sections = Mapping[str, Mapping[str, "Tensor"]]
T = TypeVar("T")


@dataclass(frozen=True)
class _Content:
    """What the metadata hold: the header, and each section's SHA-256."""

    header: dict[str, Any]
    sections: dict[str, Sha256]


@dataclass(frozen=True)
class Form:
    """What the header of one kind of file is; ``version``: what its ``format`` must be, if it has one."""

    kind: type[Any]
    version: int | None = None
    cure: str = "update mvp-deploy"  # for a file of another version

    def check(self, header: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
        """Raise MvpError if the header is of another version, or not as it should be."""
        if self.version is not None and header.get("format") != self.version:
            raise InputError(
                f"{Path(path)} has format {header.get('format')}, this version reads {self.version}: {self.cure}."
            )
        typed(self.kind, header, path)


def save(path: str | os.PathLike[str], header: Mapping[str, Any], sections: Sections, form: Form | None = None) -> None:
    """Write ``header`` (JSON values, as ``form`` says) and the tensors of ``sections``, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if form is not None:
        form.check(header, path)
    tensors = {
        section: {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(content.items())}
        for section, content in sections.items()
    }
    digests = {section: _tensor_digest(content) for section, content in tensors.items()}
    text = json.dumps({"header": header, "sections": digests}, sort_keys=True, separators=(",", ":"))
    flat = {f"{section}/{name}": t for section, content in tensors.items() for name, t in content.items()}
    try:
        with atomic_write(path) as temporary:
            save_file(flat, temporary, metadata={KEY: _digest(text) + text})  # one key: safetensors shuffles them
    except SafetensorError as error:  # what it makes of an OSError
        raise unwritable(path, None, str(error)) from error


def read_header(path: str | os.PathLike[str], form: Form | None = None) -> dict[str, Any]:
    """The header alone; no tensor is read. Raises MvpError if the file is damaged, not ours or not of this form."""
    header = _content(path).header
    if form is not None:
        form.check(header, path)
    return header


def typed(kind: type[T], header: object, path: str | os.PathLike[str]) -> T:
    """A header (or a part of it) as ``kind``. Raises MvpError if the file's is another."""
    try:
        return formats.parse(kind, header)
    except Malformed as error:
        raise formats.damaged(path, error, CURE) from error


def identity(path: str | os.PathLike[str]) -> str:
    """A checksum of the whole file: of its header, which holds one of every section. No tensor is read."""
    return _text(path)[:64]


def load(
    path: str | os.PathLike[str], sections: Collection[str] | None = None, form: Form | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The header and the tensors of ``sections`` (None: all), on the CPU, checked against their checksums."""
    from safetensors import safe_open

    found = _content(path)
    header, digests = found.header, found.sections
    content: dict[str, dict[str, Tensor]] = {name: {} for name in (digests if sections is None else sections)}
    try:
        with safe_open(path, framework="pt") as file:
            for key in sorted(file.keys()):
                section, _, name = key.partition("/")
                if section in content:
                    content[section][name] = file.get_tensor(key)
    except Exception as error:  # safetensors raises its own type, OSError or ValueError
        raise _damaged(path, str(error)[:200]) from error
    for section, tensors in content.items():
        if digests.get(section) != _tensor_digest(tensors):
            raise _damaged(path, f"the checksum of its {section} does not match")
    if form is not None:
        form.check(header, path)
    return header, content


def _content(path: str | os.PathLike[str]) -> _Content:
    """The header and the sections' checksums."""
    try:
        return formats.parse(_Content, formats.loads(_text(path)[64:].encode(errors="surrogatepass")))
    except Malformed as error:
        raise _damaged(path, str(error)) from error


def _text(path: str | os.PathLike[str]) -> str:
    """The checksum and the JSON that it is of, checked without touching the tensors behind them."""
    with formats.reading_errors(path):
        formats.plain_file(path)
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > os.fstat(file.fileno()).st_size:
                raise _damaged(path, "it is cut short")
            head = file.read(min(size, formats.MAX_BYTES))
    if not head.startswith(BEGIN.encode()):
        raise InputError(f"{Path(path)} was not written by mvp-deploy: it has no header of ours.")
    try:
        # the table of tensors behind it is not parsed
        text = json.JSONDecoder().raw_decode(head.decode(), len(BEGIN))[0]
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(text, str) or text[:64] != _digest(text[64:]):
        raise _damaged(path, "the checksum of its header does not match")
    return text


def _damaged(path: str | os.PathLike[str], what: str) -> MvpError:
    return formats.damaged(path, what, CURE)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Over name, type, shape and bytes of every tensor, by name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
