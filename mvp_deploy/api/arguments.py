"""What numbers and words the API's functions take. Checked before any work, and named as the caller wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_type_hints

from mvp_deploy.base.bounds import BATCH, DURATION, FRACTION, IMAGE_SIZE, POINTS, ROUND_TO, SEED, THREADS
from mvp_deploy.base.errors import InputError
from mvp_deploy.export.config import Exports
from mvp_deploy.exporters.fields import Malformed, Within
from mvp_deploy.exporters.parsing import parse

Batches = tuple[Annotated[int, BATCH], ...]
ALLOWED: dict[str, Any] = {
    "batches": Batches,
    "duration": Annotated[float, DURATION],
    "image_size": Annotated[int, IMAGE_SIZE] | None,
    "images": Annotated[int, Within(1, 1_000_000_000)],
    "keep": Annotated[float, FRACTION] | None,
    "macs": Annotated[float, FRACTION] | None,
    "max_drop": Annotated[float, POINTS],
    "measure": Batches,
    "method": get_type_hints(Exports, include_extras=True)["int8_method"],
    "params": Annotated[float, FRACTION] | None,
    "round_to": Annotated[int, ROUND_TO],
    "seed": Annotated[int, SEED],
    "sustained": Annotated[float, DURATION] | None,
    "threads": Annotated[int, THREADS] | None,
}
"""By the argument's name, which means the same in every function."""


def check(**arguments: Any) -> None:
    """Raise InputError for the first argument that `ALLOWED` does not allow; NumPy's numbers count as numbers."""
    for name, value in arguments.items():
        check_as(ALLOWED[name], name, value)


def check_as(kind: Any, name: str, value: Any) -> None:
    """Raise InputError for an argument that is not as ``kind`` says."""
    try:
        parse(kind, _plain(value), name)
    except Malformed as error:
        raise InputError(f"{error}.") from error


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        return [_plain(each) for each in value]
    return value
