"""The options of a budget in milliseconds, and what they ask for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._on import inventory_option

if TYPE_CHECKING:
    from mvp_deploy.backbones import Backbone
    from mvp_deploy.base.reporter import Reporter
    from mvp_deploy.latency.cost import ByProfile
    from mvp_deploy.latency.format import Profile, Shipped
    from mvp_deploy.latency.meet import Meet, Target
    from mvp_deploy.latency.timer import Timer
    from mvp_deploy.pruning.budget import Budget
    from mvp_deploy.pruning.original import Original
    from mvp_deploy.remote.inventory import Device

OTHERS = ("keep", "macs", "params")
ON = (
    "The profile to go by, written of this machine if it is not there; or a device of devices.yaml, to profile it and "
    "to time the model there.  [default: here]"
)


@dataclass(frozen=True)
class Timed:
    """A time to meet, and where: by a profile's file, on a device of ``inventory``, or here (None)."""

    target: Target
    on: Path | str | None
    inventory: Path

    def meeting(
        self, backbone: Backbone, round_to: int, beside: Path, reporter: Reporter, *, shipped: Shipped | None = None
    ) -> tuple[Budget, Meet]:
        """The budget as a share of the profile's unpruned time, and what allots the units.

        beside: the RUN; a machine that is profiled for it leaves a file of its name. shipped: what the time is for, and
            if the profile is of its precision, a speed-up counts from the unpruned model in float32; None: not known
            yet, float32 in ONNX Runtime if a profile is taken. Otherwise a speed-up counts from the unpruned model in
            the profile's precision.
        """
        from mvp_deploy.latency.files import check_runtime, check_shipped, say_conditions
        from mvp_deploy.latency.meet import Meet

        there = self._device()
        profile = self._profile(there, backbone, beside, reporter, shipped)
        target = self.target
        if shipped is not None:
            check_shipped(profile, [shipped.precision], reporter)
            check_runtime(profile, [shipped.runtime], reporter)
            target = target.than_float32(profile, [shipped.precision], reporter)
        say_conditions(profile, reporter)
        meet = Meet(target, profile, round_to, _clock(there, profile, reporter), reporter, self._known())
        return meet.budget, meet

    def share(self, backbone: Backbone, round_to: int, beside: Path, reporter: Reporter) -> tuple[Budget, ByProfile]:
        """The budget as a share of the profile's unpruned time, and what milliseconds are counted by."""
        from mvp_deploy.latency.share import share

        profile = self._profile(self._device(), backbone, beside, reporter)
        return share(self.target, profile, round_to, reporter, self._known())

    def _known(self) -> list[Profile]:
        from mvp_deploy.latency.floor import others

        return others(self.on) if isinstance(self.on, Path) else []

    def _device(self) -> tuple[str, Device] | None:
        if not isinstance(self.on, str):
            return None
        from mvp_deploy.remote.inventory import one

        return one(self.inventory, self.on)

    def _profile(
        self,
        there: tuple[str, Device] | None,
        backbone: Backbone,
        beside: Path,
        reporter: Reporter,
        shipped: Shipped | None = None,
    ) -> Profile:
        from mvp_deploy.latency import files
        from mvp_deploy.latency.format import Shipped

        shipped = shipped or Shipped()
        source = files.maker(backbone.name, backbone, shipped.precision, reporter)
        mark, conditions = shipped.mark, shipped.conditions(there is not None)
        beside = beside if beside.name else beside.resolve()  # the folder that one is in
        if there is None:
            path = self.on if isinstance(self.on, Path) else beside.with_name(f"{beside.name}{mark}.profile.json")
            taken = functools.partial(files.profile, path, conditions, source=source, reporter=reporter)
            return files.profile_on(path, taken, reporter)
        from mvp_deploy.remote.profile import profiled

        name, device = there
        path = beside.with_name(f"{beside.name}.{name}{mark}.profile.json")
        return profiled(name, device, source, conditions, path, reporter)


def _clock(
    there: tuple[str, Device] | None, profile: Profile, reporter: Reporter
) -> Callable[[Original], Timer | None]:
    """What gives what times plans where the profile was taken."""
    if there is None:
        from mvp_deploy.latency.timer import here

        return functools.partial(here, profile, reporter)
    from mvp_deploy.remote.clock import clock_there

    return functools.partial(clock_there, *there, profile, reporter)


def latency_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --latency, --speed-up, --on and --devices; the command receives ``timed: Timed | None``."""

    @click.option("--latency", help="Or: the milliseconds that the model may take, as 4ms.")
    @click.option("--speed-up", help="Or: how many times faster than unpruned, as 2x.")
    @click.option("--on", metavar="PROFILE.json|NAME", help=ON)
    @inventory_option
    @functools.wraps(function)
    def command(latency: str | None, speed_up: str | None, on: str | None, inventory: Path, **arguments: Any) -> Any:
        return function(timed=_asked(latency, speed_up, on, inventory), **arguments)

    return command


def _asked(latency: str | None, speed_up: str | None, on: str | None, inventory: Path) -> Timed | None:
    if latency is None and speed_up is None:
        if on is not None:
            raise InputError("--on needs a time to meet: give --latency 4ms or --speed-up 2x.")
        return None
    from mvp_deploy.latency.meet import Target, quantity

    source = click.get_current_context().get_parameter_source
    if given := [name for name in OTHERS if (found := source(name)) is not None and found.name == "COMMANDLINE"]:
        raise InputError(f"--{given[0]} and a time exclude each other: give one.")
    milliseconds = None if latency is None else quantity(latency, "ms")
    target = Target(milliseconds, None if speed_up is None else quantity(speed_up, "x"))
    if on is None or not (on.endswith(".json") or Path(on).is_file()):
        return Timed(target, on, inventory)
    path = Path(on)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} for --on {path}: make it, or check the path.")
    return Timed(target, path, inventory)
