"""Types of options: numbers within bounds, and names from lists. Mistakes are reported before any work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from mvp_deploy.base.bounds import DEVICE, DURATION, POINTS, SEED
from mvp_deploy.base.formats import Within
from mvp_deploy.exporters.protocol import PRECISIONS


class Output(click.Path):
    """A file to write. One that lies there is replaced where its ending says that it is of the same kind."""

    def __init__(self, *endings: str) -> None:
        super().__init__(path_type=Path)
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(super().convert(value, param, ctx))  # type: ignore[arg-type]  # it is one, by path_type
        try:
            in_the_way = path.exists() and not (path.is_file() and path.suffix.lower() in self.endings)
        except (OSError, ValueError) as error:
            self.fail(f"{value!r} is not a path ({error}).", param, ctx)
        if in_the_way:
            self.fail(f"{value!r} exists and is not a {self.endings[0]} file: choose another name.", param, ctx)
        return path


class Number(click.ParamType):
    """A number within bounds: a whole one where the bounds are; never NaN or infinite."""

    def __init__(self, bounds: Within) -> None:
        self.bounds = bounds
        self.kind = int if isinstance(bounds.low, int) else float
        self.name = "integer" if self.kind is int else "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = self.kind(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a {'whole number' if self.kind is int else 'number'}.", param, ctx)
        if not self.bounds.holds(number):
            self.fail(f"{value} is not {self.bounds}.", param, ctx)
        return number


class Percent(Number):
    """A share, written in percent, with or without the sign."""

    def __init__(self) -> None:
        super().__init__(POINTS)
        self.name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return super().convert(str(value).removesuffix("%"), param, ctx) / 100


class Listed(click.ParamType):
    """Values with commas between; the empty text and the word «none» give none."""

    name = "list"

    def __init__(self, of: click.ParamType) -> None:
        self.of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        parts = () if value == "none" else (part.strip() for part in value.split(","))
        return tuple(dict.fromkeys(self.of.convert(part, param, ctx) for part in parts if part))


class Device(click.ParamType):
    """auto, cpu, cuda or cuda:N; whether the machine has it is found when it is used."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.match(DEVICE, str(value)):
            self.fail(f"{value!r} is not a device: write auto, cpu, cuda or cuda:N.", param, ctx)
        return str(value)


class Span(click.ParamType):
    """A time as 90s, 10m or 1h, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", str(value))
        seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2] or "s"] if found else 0.0
        if not DURATION.holds(seconds):
            self.fail(f"{value!r} is not a time up to an hour: write 90s, 10m or 1h.", param, ctx)
        return seconds


class Name(click.ParamType):
    """What a task is called in tables, reports and on devices: a short line."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[^\W_][\w .()+-]{0,59}", str(value)):
            self.fail(f"{value!r} is not a name: up to 60 letters, digits, spaces and any of .()+-_, a letter or digit "
                      "first.", param, ctx)  # fmt: skip
        return str(value)


PATH = click.Path(path_type=Path)
SEEDS = Number(SEED)
PRECISION = Listed(click.Choice(PRECISIONS))
