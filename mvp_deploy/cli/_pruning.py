"""The options `bank add` and `prune` share: how much to keep, and how to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from mvp_deploy.base.bounds import FRACTION, LEARNING_RATE, ROUND_TO, TRAINING_BATCH, TUNING_STEPS
from mvp_deploy.base.errors import InputError
from mvp_deploy.cli._types import Number

if TYPE_CHECKING:
    from mvp_deploy.backbones import Backbone
    from mvp_deploy.pruning.budget import Budget
    from mvp_deploy.training import TrainConfig


def budget_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--keep, --macs, --params (one of them) and --round-to."""
    for option in (
        click.option(
            "--round-to",
            default=8,
            show_default=True,
            type=Number(ROUND_TO),
            help="Keep channels in multiples of this.",
        ),
        click.option("--params", type=Number(FRACTION), help="Or: the fraction of parameters to keep."),
        click.option("--macs", type=Number(FRACTION), help="Or: the fraction of multiply-accumulates to keep."),
        click.option("--keep", type=Number(FRACTION), help="The fraction of units to keep; 0.3 if nothing is said."),
    ):
        function = option(function)
    return function


def make_budget(keep: float | None, macs: float | None, params: float | None, round_to: int) -> Budget:
    """The one budget asked for."""
    from mvp_deploy.pruning.budget import Budget

    given = {"units": keep, "macs": macs, "params": params}
    asked = [(of, fraction) for of, fraction in given.items() if fraction is not None] or [("units", 0.3)]
    if len(asked) > 1:
        raise InputError("--keep, --macs and --params exclude each other: give one.")
    of, fraction = asked[0]
    return Budget(fraction, of, round_to)  # type: ignore[arg-type]


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--steps, --batch-size, --lr, --optimizer and --flip, for `train_config`."""
    for option in (
        click.option("--flip", is_flag=True, help="Mirror images left to right (not for digits or letters)."),
        click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), help="By the backbone's kind by default."),
        click.option("--lr", type=Number(LEARNING_RATE), help="Highest learning rate; by the optimizer by default."),
        click.option(
            "--batch-size", default=64, show_default=True, type=Number(TRAINING_BATCH), help="Images per step."
        ),
        click.option(
            "--steps", default=200, show_default=True, type=Number(TUNING_STEPS), help="Fine-tuning steps; 0: none."
        ),
    ):
        function = option(function)
    return function


def train_config(backbone: Backbone, options: Mapping[str, Any], seed: int) -> TrainConfig:
    """The options as a training configuration, gaps filled as suits the backbone."""
    from dataclasses import replace

    from mvp_deploy.pruning.original import suited

    config = suited(backbone, options["optimizer"])
    given = {name: options[name] for name in ("steps", "batch_size", "lr", "flip") if options[name] is not None}
    return replace(config, seed=seed, **given)
