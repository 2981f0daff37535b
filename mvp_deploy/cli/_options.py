"""Options made from the fields of the settings they set (`mvp_deploy.base.settings`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from mvp_deploy.base.bounds import FRACTION
from mvp_deploy.base.formats import Within
from mvp_deploy.base.settings import Settings, described
from mvp_deploy.cli._types import Listed, Name, Number, Percent
from mvp_deploy.pruning.config import Budget

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options(into: str, defaults: Settings, *only: str, **spelled: str) -> Decorator:
    """An option for each field that users set; the command receives them as one value, the argument ``into``.

    Args:
        defaults: a value of the class of settings; what is not given stays as it is there.
        only: the fields to make options of, if not all.
        spelled: the option's name by field, where it is not the field's own.
    """
    fields = described(type(defaults))
    found = {name: fields[name] for name in only or fields}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**arguments: Any) -> Any:
            values = {name: arguments.pop(f"{into}_{name}") for name in found}
            return function(**{into: replace(defaults, **values)}, **arguments)

        hints = get_type_hints(type(defaults), include_extras=True)
        for name in reversed(found):
            spelling = spelled.get(name, f"--{name.replace('_', '-')}")
            known = found[name].metadata
            details = _details(hints[name], getattr(defaults, name), known["percent"])
            several = " Several: with commas between." if isinstance(details.get("type"), Listed) else ""
            several = " Several: with commas between, or given again." if details.get("multiple") else several
            command = click.option(spelling, f"{into}_{name}", help=known["description"] + several, **details)(command)
        return command

    return decorate


def _details(hint: Any, default: Any, percent: bool) -> dict[str, Any]:
    """How click reads a field of this type: a switch, a list with commas, or one value."""
    if hint is bool:
        return {"is_flag": True, "default": default}
    if percent:
        return {"type": Percent(), "default": f"{100 * default:g}%", "show_default": True}
    if not isinstance(default, tuple):
        return {"type": _type(hint), "default": default, "show_default": default is not None}
    each = _type(next(part for part in _parts(hint) if get_origin(part) is tuple).__args__[0])
    if each is click.STRING:
        return {"multiple": True, "default": default, "show_default": True, "callback": _split}
    return {"type": Listed(each), "default": ",".join(map(str, default)), "show_default": True}


def _split(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(","))


def _type(hint: Any) -> click.ParamType:
    for part in _parts(hint):
        if get_origin(part) is Literal:
            return click.Choice(get_args(part))
        if isinstance(part, Within):
            return Number(part)
    return click.STRING


def _parts(hint: Any) -> Iterator[Any]:
    """A type, and what `Annotated` and unions are made of."""
    yield hint
    if get_origin(hint) in (Annotated, Union, UnionType):
        for part in get_args(hint):
            yield from _parts(part)


def name_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--name of a task; the command receives ``title: str | None``."""
    return click.option("--name", "title", type=Name(), help="What tables, reports and devices call the task.  "
                        "[default: as it is written]")(function)  # fmt: skip


def budget_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--macs, --params, --keep (one of them) and --round-to; the command receives ``budget: Budget``."""

    @click.option("--macs", type=Number(FRACTION),
                  help=f"The fraction of multiply-accumulates to keep; {Budget.fraction} by default.")  # fmt: skip
    @click.option("--params", type=Number(FRACTION), help="Or: the fraction of parameters to keep.")
    @click.option("--keep", type=Number(FRACTION), help="Or: the fraction of units to keep, the same of every group.")
    @options("rest", Budget(), "round_to")
    @functools.wraps(function)
    def command(keep: float | None, macs: float | None, params: float | None, rest: Budget, **arguments: Any) -> Any:
        budget = Budget.asked(keep=keep, macs=macs, params=params, round_to=rest.round_to)
        return function(budget=budget, **arguments)

    return command
