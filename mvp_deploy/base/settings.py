"""What users set: each value is one field, which states its type, bounds, default and description once.

    @dataclass(frozen=True)
    class Budget(Settings):
        fraction: Annotated[float, FRACTION] = setting(0.5, "Of the unpruned model's.")

The sections of deploy.yaml and their JSON schema (pydantic reads the class as it is), the options of the command line
(`mvp_deploy.cli._options`) and the class's own checks derive from it. Standard library alone, for devices.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

from mvp_deploy.base.errors import InputError
from mvp_deploy.exporters.fields import Malformed
from mvp_deploy.exporters.parsing import check


@dataclass(frozen=True)
class Settings:
    """A frozen dataclass of settings; raises InputError for a value that its field does not allow."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "str_max_length": 4096, "allow_inf_nan": False}

    def __post_init__(self) -> None:
        try:
            check(self)
        except Malformed as error:
            raise InputError(f"{error}.") from error


def setting(default: Any, description: str, *, percent: bool = False) -> Any:
    """A field that users set. Fields made otherwise are for programs: they are neither an option nor a key.

    Args:
        percent: a share that the command line takes in percent.
    """
    strict = {"strict": True} if isinstance(default, bool) else {}  # pydantic would take 1 for true
    return field(default=default, metadata={"description": description, "percent": percent, **strict})


def described(cls: type[Any]) -> dict[str, Field[Any]]:
    """The fields that users set, by name."""
    return {each.name: each for each in fields(cls) if "description" in each.metadata}
