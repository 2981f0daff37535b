"""Tasks from Hugging Face datasets as Parquet files, with an image and a label column; unpacked into the cache."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mvp_deploy.base.errors import EnvironmentMissing, InputError
from mvp_deploy.tasks.listing import PARTS, Listing
from mvp_deploy.tasks.unpack import Labelled, list_unpacked

IMAGE, LABEL = ("image", "img", "jpg", "png"), ("label", "labels", "fine_label", "class", "cls", "category")
BATCH = 64  # rows at once


def list_parquet(where: str, files: Sequence[Path]) -> Listing:
    """The images in the files; their names begin with their part: ``train-00000-of-00002.parquet``.

    Raises:
        MvpError: (ENVIRONMENT) pyarrow is missing; (INPUT) a file is damaged or has no images and labels.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise EnvironmentMissing(f"{where} needs pyarrow to be read: pip install pyarrow.") from error
    return list_unpacked(where, files, _samples, PARTS, "files called train, validation or test")


def _samples(file: Path) -> Iterator[Labelled]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            schema = table.schema_arrow
            image, label = _column(file, schema.names, IMAGE), _column(file, schema.names, LABEL)
            names = _class_names(schema.metadata or {}, label)
            for batch in table.iter_batches(BATCH, columns=[image, label]):
                for picture, number in zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True):
                    yield _labelled(file, picture, number, names)
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({str(error)[:200]}): fetch or make it again") from error


def _labelled(file: Path, picture: Any, number: Any, names: Sequence[str] | None) -> Labelled:
    content = picture.get("bytes") if isinstance(picture, dict) else picture
    if not isinstance(content, bytes) or number is None:
        raise InputError(f"{file} has a row without an image's bytes or without a label: leave it out")
    if names is not None and isinstance(number, int):
        if not 0 <= number < len(names):
            raise InputError(
                f"{file} has the label {number} and {len(names)} class names: -1 marks a test part without labels, "
                "which cannot be used"
            )
        number = names[number]
    return Labelled(content, "", unicodedata.normalize("NFC", str(number)))


def _class_names(metadata: dict[bytes, bytes], label: str) -> list[str] | None:
    """The names that the ``datasets`` library keeps in the schema for a column of class numbers."""
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][label]
        names = feature.get("names")
        return [str(name) for name in names] if names else None
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _column(file: Path, there: Sequence[str], known: tuple[str, ...]) -> str:
    found = next((name for name in known if name in there), None)
    if found is None:
        raise InputError(
            f"{file} has the columns {', '.join(there)} and none called {' or '.join(known[:2])}: rename it"
        )
    return found
