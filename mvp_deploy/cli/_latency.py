"""The options of a budget in milliseconds, and what they ask for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mvp_deploy.base.errors import InputError

if TYPE_CHECKING:
    from mvp_deploy.backbones import Backbone
    from mvp_deploy.base.reporter import Reporter
    from mvp_deploy.latency.meet import Meeting, Target
    from mvp_deploy.pruning.budget import Budget
    from mvp_deploy.pruning.original import Original

OTHERS = ("keep", "macs", "params")


@dataclass(frozen=True)
class Timed:
    """A time to meet, and the file of the profile that says what layers take."""

    target: Target
    on: Path | None

    def meeting(
        self, backbone: Backbone, round_to: int, beside: Path, reporter: Reporter
    ) -> tuple[Budget, Callable[[Original], Meeting]]:
        """The budget as a share of the profile's unpruned time, and what allots the units.

        beside: the RUN; without --on, the present machine is profiled into a file of its name.
        """
        from mvp_deploy import backbones
        from mvp_deploy.latency import files
        from mvp_deploy.latency.format import Conditions
        from mvp_deploy.latency.meet import Meeting, profile_on, timer
        from mvp_deploy.pruning.budget import Budget

        path = self.on or beside.with_name(f"{beside.name}.profile.json")
        size = backbone.preprocessing.input_size

        def make() -> Any:
            source = files.maker(
                backbone.name, lambda classes: backbones.build(backbone, None, classes), size, "fp32", reporter
            )
            return files.profile(path, Conditions("onnxruntime"), source=source, reporter=reporter)

        profile = profile_on(path, make, reporter)
        share = min(1.0, self.target.of(profile.full_ms) / profile.full_ms)

        def meet(original: Original) -> Meeting:
            clock = timer(original.structure, original.model, profile)
            if clock is None:
                reporter.say(
                    "the profile is of another machine or runtime than here: the pruned model is not timed, so time "
                    "it there."
                )
            return Meeting(original.structure, profile, self.target, round_to=round_to, timer=clock, reporter=reporter)

        return Budget(share, "latency", round_to), meet


def latency_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --latency, --speed-up and --on; the command receives ``timed: Timed | None``."""

    @click.option("--latency", help="Or: the milliseconds that the model may take, as 4ms.")
    @click.option("--speed-up", help="Or: how many times faster than unpruned, as 2x.")
    @click.option("--on", "profile", type=click.Path(path_type=Path),
                  help="The profile to go by; written there of this machine if it is not.")  # fmt: skip
    @functools.wraps(function)
    def command(latency: str | None, speed_up: str | None, profile: Path | None, **arguments: Any) -> Any:
        return function(timed=_asked(latency, speed_up, profile), **arguments)

    return command


def _asked(latency: str | None, speed_up: str | None, profile: Path | None) -> Timed | None:
    if latency is None and speed_up is None:
        if profile is not None:
            raise InputError("--on needs a time to meet: give --latency 4ms or --speed-up 2x.")
        return None
    from mvp_deploy.latency.meet import Target, quantity

    source = click.get_current_context().get_parameter_source
    if given := [name for name in OTHERS if (found := source(name)) is not None and found.name == "COMMANDLINE"]:
        raise InputError(f"--{given[0]} and a time exclude each other: give one.")
    milliseconds = None if latency is None else quantity(latency, "ms")
    return Timed(Target(milliseconds, None if speed_up is None else quantity(speed_up, "x")), profile)
