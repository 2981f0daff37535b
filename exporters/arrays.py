"""Reading .npz files within bounds: plain arrays of the types and dimensions asked for, none of pickled objects."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

import numpy as np

from mvp_deploy.exporters.fields import Malformed
from mvp_deploy.exporters.formats import damaged, plain_file, reading_errors

MAX_BYTES = 4 * 2**30  # of a file's arrays, unpacked


@dataclass(frozen=True)
class Plain:
    """An array of this type ('float32', or 'U' for any text) and number of dimensions; floats are finite."""

    dtype: str
    dimensions: int


def read_npz(path: str | os.PathLike[str], wanted: Mapping[str, Plain], *, cure: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz, which has those ``wanted`` and no others.

    Args:
        cure: what to do about a damaged file: «copy the bundle again».

    Raises:
        MvpError: (INPUT) it is missing, damaged or holds something else; (ENVIRONMENT) it cannot be read.
    """
    with reading_errors(path):
        plain_file(path)
        try:
            with zipfile.ZipFile(path) as archive:
                return _arrays(archive, wanted)
        except OSError:
            raise
        except Malformed as error:
            raise damaged(path, error, cure) from error
        except Exception as error:  # zip, its decompressors and numpy's parser each have errors of their own
            raise damaged(path, f"it is not an .npz of plain arrays: {str(error)[:200]}", cure) from error


def _arrays(archive: zipfile.ZipFile, wanted: Mapping[str, Plain]) -> dict[str, np.ndarray]:
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if members.keys() != wanted.keys() or len(archive.infolist()) != len(wanted):
        raise Malformed(f"it must hold the arrays {', '.join(sorted(wanted))}")
    if sum(member.file_size for member in members.values()) > MAX_BYTES:
        raise Malformed(f"its arrays take more than {MAX_BYTES >> 30} GiB")
    arrays = {}
    for name, plain in wanted.items():
        with archive.open(members[name]) as file:
            arrays[name] = read_npy(file, members[name].file_size, name, plain)
    return arrays


def read_npy(file: IO[bytes], size: int, name: str, plain: Plain | None = None) -> np.ndarray:
    """The array in an .npy file of ``size`` bytes. Raises Malformed where it promises more, or is not ``plain``."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if plain and (len(shape) != plain.dimensions or plain.dtype not in (dtype.name, dtype.kind) or dtype.hasobject):
        raise Malformed(f"{name} is {dtype} {list(shape)}: it must be {plain.dtype} of {plain.dimensions} dimensions")
    if math.prod(shape) * dtype.itemsize > size:
        raise Malformed(f"{name} promises {list(shape)} values in {size} bytes")
    file.seek(0)
    array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    if plain and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Malformed(f"{name} has values that are not finite")
    return array
