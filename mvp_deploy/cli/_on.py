"""--on: the same command, carried out on devices of devices.yaml."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click
from click.core import ParameterSource

from mvp_deploy.base.errors import DeviceAway, InputError, MvpError, error_of, worst
from mvp_deploy.cli._common import Console
from mvp_deploy.cli._types import PATH, Listed

if TYPE_CHECKING:
    from mvp_deploy.bundle import Bundle
    from mvp_deploy.remote.inventory import Device, Inventory

T = TypeVar("T")
LOCAL = ("on", "inventory", "allow_missing", "as_json", "quiet")  # what is not passed on


@dataclass(frozen=True)
class Found(Generic[T]):
    """What work on several devices came to: results, and why the others have none."""

    results: dict[str, T]
    errors: dict[str, MvpError]
    allow_missing: bool

    @property
    def gaps(self) -> dict[str, str]:
        return {name: str(error) for name, error in self.errors.items()}

    def end(self, more: Iterable[MvpError] = ()) -> None:
        """Raise what the command ends with: any error, but of a device that is away and may be."""
        away = [error for error in self.errors.values() if self.allow_missing and isinstance(error, DeviceAway)]
        failed = [*(error for error in self.errors.values() if error not in away), *more]
        if failed:
            raise error_of("\n".join(map(str, failed)), worst(error.code for error in failed))
        if not self.results:
            raise DeviceAway("no device was there: nothing was done.")


@dataclass(frozen=True)
class Fleet:
    """The devices a command is for."""

    devices: Inventory
    allow_missing: bool

    def each(self, work: Callable[[str, Device], T], console: Console) -> Found[T]:
        """What the work gives on each device, at once on all."""
        from mvp_deploy.remote.session import on_each

        came_to = on_each(self.devices, work)
        errors = {name: each for name, each in came_to.items() if isinstance(each, MvpError)}
        if self.allow_missing:
            for error in errors.values():
                console.warn(str(error))
        results = {name: each for name, each in came_to.items() if not isinstance(each, MvpError)}
        return Found(results, errors, self.allow_missing)


def on_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --on, --devices and --allow-missing; the command receives ``fleet: Fleet | None``."""

    @named_options
    @functools.wraps(function)
    def command(on: tuple[str, ...], inventory: Path, allow_missing: bool, **arguments: Any) -> Any:
        if allow_missing and not on:
            raise InputError("--allow-missing is for devices that are away: name devices with --on.")
        return function(fleet=fleet_of(on, inventory, allow_missing), **arguments)

    return command


def named_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same options as they are; the command receives ``on``, ``inventory`` and ``allow_missing``."""
    for option in (
        click.option("--allow-missing", is_flag=True, help="A device that is away is a named gap, and no failure."),
        inventory_option,
        click.option("--on", default="", type=Listed(click.STRING), metavar="NAME,TAG,…", callback=_named,
                     help="Do it on these devices of devices.yaml, reached by ssh.  [default: here]"),
    ):  # fmt: skip
        function = option(function)
    return function


def _named(context: click.Context, option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """An empty name, as of a variable that is not set, is not «here»."""
    if not value and context.get_parameter_source(str(option.name)) == ParameterSource.COMMANDLINE:
        raise click.BadParameter("it names no device: give names or tags of devices.yaml.", context, option)
    return value


def fleet_of(on: Collection[str], inventory: Path, allow_missing: bool) -> Fleet | None:
    """The devices of these names and tags; None where there are none."""
    if not on:
        return None
    from mvp_deploy.remote.inventory import chosen, load

    return Fleet(chosen(load(inventory), tuple(on)), allow_missing)


def inventory_option(function: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option(
        "--devices", "inventory", default="devices.yaml", show_default=True, envvar="MVP_DEVICES",
        type=PATH, help="The file that says how devices are reached.",
    )  # fmt: skip
    return option(function)


def forwarded(but: Collection[str] = ()) -> list[str]:
    """The options of the running command as they were given, for the same command elsewhere; arguments are left out."""
    context = click.get_current_context()
    found: list[str] = []
    for option in context.command.params:
        name = str(option.name)
        given = context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        if not isinstance(option, click.Option) or not given or name in (*LOCAL, *but):
            continue
        value, flag = context.params[name], option.opts[0]
        if option.is_flag:
            found += [flag] if value else []
        elif option.multiple:
            found += [part for each in value for part in (flag, str(each))]
        else:
            found += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return found


def given(name: str) -> str | None:
    """The value of an option of the running command if the user gave it."""
    context = click.get_current_context()
    return str(context.params[name]) if context.get_parameter_source(name) == ParameterSource.COMMANDLINE else None


def crops_of(bundle: Bundle, images: Sequence[Any]) -> dict[str, bytes]:
    """Images (files, or uint8 RGB pixels) as a device gets them: read and cropped as the bundle says."""
    from mvp_deploy.base.formats import read_json
    from mvp_deploy.bundle.format import CURE
    from mvp_deploy.remote.classify import crops
    from mvp_deploy.tasks.folder import read_image
    from mvp_deploy.tasks.preprocessing import Preprocessing

    missing = f"{bundle.path} does not say how an image becomes the model's input: export it with its preprocessing."
    how = read_json(bundle.path / "preprocessing.json", Preprocessing, cure=CURE, missing=missing)

    def crop(number: int) -> Any:
        image = images[number]
        return how.resize(read_image(image) if isinstance(image, Path) else image)

    return crops(crop, len(images))
