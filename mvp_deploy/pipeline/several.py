"""Several models for one time: which of them `shrink` makes small, as `frontier` finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mvp_deploy import backbones
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.reporter import Reporter
from mvp_deploy.export.config import Exports
from mvp_deploy.latency.meet import Target
from mvp_deploy.pipeline.asked import Search, Source
from mvp_deploy.pipeline.frontier import Searched, search
from mvp_deploy.pipeline.shrink import shipped_of
from mvp_deploy.tasks import Task


def best_of(
    names: Sequence[str],
    size: int | None,
    task: Task,
    target: Target,
    asked: Exports,
    out: Path,
    *,
    seed: int,
    reporter: Reporter,
) -> Searched:
    """Try published models unpruned, and cut to the time where they are slower; called again, it goes on.

    Args:
        size: of the images; None: each of the models' own.
        asked: what ships: its smallest precision, in the first target's runtime, is what is judged and timed.
        out: the folder of the search.

    Raises:
        MvpError: the target is no time, or nothing that was tried meets it (LatencyError).
    """
    shipped = shipped_of(asked)
    if target.milliseconds is None:
        raise InputError("several models have no one time that --speed-up could count from: give --latency 4ms.")
    if shipped.runtime == "tensorrt":
        raise InputError(
            "models are compared on this machine's CPU, not in TensorRT: name one --model, or another --target first."
        )
    created = [backbones.create(name, image_size=size)[0] for name in names]
    sizes = sorted({backbone.preprocessing.input_size[-1] for backbone in created})
    reporter.say(
        f"{' and '.join(names)} at {' and '.join(map(str, sizes))} px: each is tried unpruned, and cut to "
        f"{target} where it is slower"
    )
    sources = [Source(name, pretrained=True) for name in names]
    conditions, precisions = shipped.conditions(False), (shipped.precision,)
    wanted = Search(task, sources, sizes, conditions, precisions, milliseconds=target.milliseconds, seed=seed)
    tried = search(wanted, out, reporter=reporter)
    mine = [c for c in tried.candidates if c.image_size in sizes and c.precision == shipped.precision]
    if not mine:
        raise InputError("no candidate could be made: the warnings say why.")
    found = Searched(replace(tried, candidates=tuple(mine)), target.milliseconds)  # an earlier call asked for others
    reporter.say(found.verdict + "\n")
    return found
