"""The options that the study's scripts share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from prepare import NETS
from settings import SETTINGS, Setting, setting

from mvp_deploy.base import devices


@dataclass(frozen=True)
class Place:
    """A setting and a net, where prepared things are kept, and the device to work on."""

    setting: Setting
    net: str
    work: Path
    device: torch.device


def study(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add SETTING, NET, --data, --work, --development, --device, --threads; the command gets ``place: Place``."""

    @click.argument("setting_name", metavar="SETTING", type=click.Choice(SETTINGS))
    @click.argument("net", type=click.Choice(list(NETS)))
    @click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
    @click.option("--work", type=click.Path(path_type=Path), required=True)
    @click.option("--development", is_flag=True, help="On tasks to try recipes on, instead of the targets.")
    @click.option("--device", default="auto", show_default=True)
    @click.option("--threads", type=int, default=1, show_default=True)
    @functools.wraps(command)
    def wrapped(
        setting_name: str, net: str, data: Path, work: Path, development: bool, device: str, threads: int, **rest: Any
    ) -> Any:
        torch.set_num_threads(threads)
        work.mkdir(parents=True, exist_ok=True)
        return command(
            place=Place(setting(setting_name, data, development), net, work, devices.resolve(device)), **rest
        )

    return wrapped
