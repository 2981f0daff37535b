"""The options of commands that run one model of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mvp_deploy.base.bounds import THREADS
from mvp_deploy.cli._types import PRECISIONS, Device, Number


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--unpruned, --target, --precision, --threads and --device."""
    for option in (
        click.option("--device", default="cpu", show_default=True, type=Device(), help="cpu, cuda or cuda:N."),
        click.option("--threads", type=Number(THREADS), help="CPU threads.  [default: one per core]"),
        click.option(
            "--precision", type=click.Choice(PRECISIONS), help="fp32, fp16 or int8.  [default: the bundle's first]"
        ),
        click.option("--target", help="onnx, openvino, …  [default: the bundle's first]"),
        click.option("--unpruned", is_flag=True, help="The unpruned model instead of the pruned one."),
    ):
        function = option(function)
    return function
