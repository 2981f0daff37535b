"""Tasks from WebDataset's tar files: KEY.jpg beside KEY.cls or KEY.json; unpacked once into the cache."""

from __future__ import annotations

import json
import os
import re
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from mvp_deploy.base.errors import InputError
from mvp_deploy.tasks.listing import Listing
from mvp_deploy.tasks.unpack import Labelled, list_unpacked

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2")
MAX_MEMBER = 1 << 28  # bytes of one image


def list_shards(where: str, shards: Sequence[Path]) -> Listing:
    """The images in the tars. Names that begin with train, val or test divide them.

    Raises:
        MvpError: a tar is damaged, or an image has no label.
    """
    words = ("train", "training", "val", "valid", "validation", "test")
    return list_unpacked(where, shards, _samples, words, "shards called train, val or test")


def _samples(shard: Path) -> Iterator[Labelled]:
    """Each image with its label; members of one sample follow each other and share all but what follows the dot."""
    try:
        with tarfile.open(shard, "r:*") as archive:
            key, sample = "", dict[str, bytes]()
            for member in archive:
                if not member.isfile() or member.size > MAX_MEMBER:
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                if f"{folder}/{stem}" != key and sample:
                    yield _labelled(shard, key, sample)
                    sample = {}
                key = f"{folder}/{stem}"
                content = archive.extractfile(member)
                if content is not None:
                    sample[f"{dot}{ending}".lower()] = content.read()
            if sample:
                yield _labelled(shard, key, sample)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{shard} cannot be read as a tar ({error}): fetch or make it again") from error


def _labelled(shard: Path, key: str, sample: dict[str, bytes]) -> Labelled:
    ending = next((ending for ending in sample if ending.endswith(IMAGES)), None)
    label = _label(sample)
    if ending is None or label is None:
        has = ", ".join(sample)
        raise InputError(
            f"the sample {key.strip('/')} of {shard} has {has}: it needs an image and a label (.cls, .txt, or .json "
            "with label or class)"
        )
    return Labelled(sample[ending], "." + ending.rpartition(".")[2], unicodedata.normalize("NFC", label))


def _label(sample: dict[str, bytes]) -> str | None:
    for ending in (".cls", ".txt", ".label"):
        if ending in sample:
            return sample[ending].decode("utf-8", "replace").strip() or None
    try:
        told = json.loads(sample.get(".json", b"{}"))
        return next((str(told[key]) for key in ("label", "class", "cls", "class_name") if key in told), None)
    except (ValueError, TypeError):
        return None


def expand(pattern: str) -> list[Path]:
    """The files of ``shard-{000..012}.tar``; a name without braces stands for itself."""
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern)
    if found is None:
        return [Path(os.path.expanduser(pattern))]
    before, low, high, after = found.groups()
    numbers = range(int(low), min(int(high), int(low) + 100_000) + 1)
    return [Path(os.path.expanduser(f"{before}{number:0{len(low)}}{after}")) for number in numbers]
