"""What a field of a file may hold: bounds and patterns, as annotations of its type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any


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
    """Bounds of a number, or of the length of a text, list or mapping; ``above`` excludes the lower one."""

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
