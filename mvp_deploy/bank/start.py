"""Starting a bank: linear streams are turned first, where there are images to turn them by."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from mvp_deploy.backbones import Backbone
from mvp_deploy.bank.store import Bank
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.pruning.rotation import has_streams, rotate
from mvp_deploy.tasks import Task, prepare


def start(
    folder: str | os.PathLike[str],
    backbone: Backbone,
    state: Mapping[str, Tensor],
    turn_by: Task | None,
    *,
    seed: int = 0,
    reporter: Reporter,
) -> Bank:
    """Start an empty bank; the turned streams are part of its backbone.

    Args:
        turn_by: on whose training images linear streams are turned (`rotation.rotate`); None: they stay as they are,
            which is said where there are some.

    Raises:
        MvpError: there is something in the folder, or the turned backbone computes something else.
    """
    if turn_by is None:
        streams = has_streams(backbone, state)
        bank = Bank.init(folder, backbone, state)
        if streams:
            reporter.say(
                f"{backbone.name} has linear streams, which lose less where much goes once they are turned into their "
                "principal directions: to have that, start the bank anew with `--rotate TASK`, the images of one of "
                "your tasks (rotate= in Python). No output changes."
            )
        return bank
    shown = prepare(turn_by.train, backbone.preprocessing, memory_limit=0)
    turned, state = rotate(backbone, state, shown, seed=seed)
    if turned == backbone:
        reporter.warn(f"{backbone.name} has no linear stream: it stays as it is.")
    return Bank.init(folder, turned, state)
