"""What `mvp.prune` gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mvp_deploy.backbones import Backbone
from mvp_deploy.latency.meet import Met
from mvp_deploy.structure import KeepPlan


@dataclass(frozen=True)
class Report:
    """What pruning did.

    Attributes:
        params: parameters of the smaller model.
        macs: its multiply-accumulates for one image.
        full_params: parameters of the model that it was made from.
        full_macs: and its multiply-accumulates.
        units: the fraction of units kept.
        frozen: the share of weights that could not shrink.
        accuracy: on the held-out images, 0 to 1; None without any.
        full_accuracy: that of the unpruned model.
        latency: how a budget of time was met; None without one.
    """

    params: int
    macs: int
    full_params: int
    full_macs: int
    units: float
    frozen: float
    accuracy: float | None
    full_accuracy: float | None
    latency: Met | None = None

    def __str__(self) -> str:
        sizes = (f"{self.latency}; " if self.latency else "") + (
            f"{self.macs / self.full_macs:.0%} of the MACs, {self.params / self.full_params:.0%} of the parameters, "
            f"{self.units:.0%} of the units"
        )
        if self.accuracy is None or self.full_accuracy is None:
            return sizes
        return f"{sizes}; accuracy {self.full_accuracy:.1%} before, {self.accuracy:.1%} after"


@dataclass(frozen=True, eq=False)
class Result:
    """A pruned model, ready to train, save or export.

    Attributes:
        model: an ordinary module in eval mode (or, where its class cannot take the new sizes, a recorded program that
            trains and exports like one).
        unpruned: the full-size model, with the same classes: a teacher to distil from, and what `mvp_deploy.export`
            compares with. Its linear streams may be turned into other directions: it computes the same.
        plan: which units of ``unpruned`` stayed.
        report: sizes and accuracies.
        backbone: how timm makes the unpruned model again; None for a user's own module.
        classes: the outputs' names, where the data have them.
        input_size: channels, height and width of an image.
        folder: the RUN on disk, where one was asked for.
    """

    model: nn.Module
    unpruned: nn.Module
    plan: KeepPlan
    report: Report
    backbone: Backbone | None
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]
    folder: Path | None = None

    def __repr__(self) -> str:
        return f"Result({type(self.model).__name__}: {self.report})"
