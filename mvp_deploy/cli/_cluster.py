"""The options `bank add` and `run` share: where a Ray cluster is, and what a task takes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from mvp_deploy.base.bounds import CPUS, GPUS
from mvp_deploy.cli._types import Number


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --ray, --cpus and --gpus; the command receives ``cluster: Cluster | None``."""

    @click.option(
        "--ray", metavar="ADDRESS", help="Prune on the Ray cluster there; auto: on the one this machine is of."
    )
    @click.option("--cpus", default=1.0, show_default=True, type=Number(CPUS), help="With --ray: CPU cores per task.")
    @click.option("--gpus", default=0.0, show_default=True, type=Number(GPUS),
                  help="With --ray: GPUs per task; 0.25 lets four share one.")  # fmt: skip
    @functools.wraps(function)
    def command(ray: str | None, cpus: float, gpus: float, **arguments: Any) -> Any:
        from mvp_deploy.base.cluster import Cluster

        return function(cluster=None if ray is None else Cluster(ray, cpus, gpus), **arguments)

    return command
