"""Teaching a smaller model the features of the full one, without labels: what one recovery gives to every later task.

Feature distillation (Romero et al. 2015, "FitNets", arXiv 1412.6550) at the classifier's input alone, on any images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mvp_deploy.base.devices import full_float32
from mvp_deploy.base.errors import InputError
from mvp_deploy.pruning.config import IMITATION
from mvp_deploy.pruning.linear import LinearCalls, LinearLayer, linear_layers
from mvp_deploy.pruning.original import Original
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images
from mvp_deploy.training import FitResult, Judge, Objective, Progress, TrainConfig, fit

TUNING = TrainConfig(**asdict(IMITATION), weight_decay=0.0, norms="frozen")  # best in docs/pretrained.md


class Features:
    """The classifier's inputs: what a model says of an image before its last linear layer."""

    def __init__(self, original: Original, model: nn.Module) -> None:
        if len(original.classifier) != 1:
            raise InputError(f"{original.backbone.name} has not one linear classifier whose inputs could be imitated.")
        weight = f"{original.classifier[0]}.weight"
        self.model, self.weight = model, weight
        self.layers = {weight: linear_layers(model, original.structure.example)[weight]}

    def __call__(self, x: Tensor) -> Tensor:
        """Features float [n, features] of images [n, 3, H, W], differentiable."""
        with self._listening() as seen:
            self.model(x)
        return seen[0]

    @contextmanager
    def _listening(self) -> Iterator[list[Tensor]]:
        seen: list[Tensor] = []

        def note(layer: LinearLayer, x: Tensor, y: Tensor) -> None:
            seen.append(x)

        with LinearCalls(self.model, self.layers, note):
            yield seen


def imitate(
    original: Original,
    plan: KeepPlan,
    model: nn.Module,
    images: Images,
    config: TrainConfig = TUNING,
    *,
    left_out: Images | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train ``model``, which ``plan`` describes, to give the features of the unpruned one that it has kept; in place.

    The loss is the mean squared difference, of the unpruned features' variance. Labels are not read.

    Args:
        left_out: images by which the best state is kept, that before the first step included.
    """
    teacher = original.copy().eval()
    theirs, kept = Features(original, teacher), kept_features(original, plan)

    def objective(student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = theirs(x)[:, kept]
        return distance(ours(x), wanted)

    ours = Features(original, model)
    loss: Objective = objective
    judge: Judge | None = None
    if left_out is not None:
        judge = partial(_error, original, plan, left_out)
    return fit(model, images, config, objective=loss, judge=judge, checkpoint=checkpoint, progress=progress)


def _error(original: Original, plan: KeepPlan, images: Images, model: nn.Module) -> float:
    return feature_error(original, plan, model, images)


@full_float32()
@torch.no_grad()
def feature_error(original: Original, plan: KeepPlan, model: nn.Module, images: Images) -> float:
    """How far the features are from the unpruned model's: the squared difference, of their variance (0: equal)."""
    model.to(images.device).eval()
    theirs, ours, kept = Features(original, original.model), Features(original, model), kept_features(original, plan)
    pairs = [(ours(x), theirs(x)[:, kept]) for x, _ in images.passes()]
    found, wanted = (torch.cat(part) for part in zip(*pairs, strict=True))
    return float(distance(found, wanted))


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared difference of features [n, features], of the wanted ones' variance."""
    spread = (wanted - wanted.mean(0)).square().mean().clamp_min(1e-12)
    return (found - wanted).float().square().mean() / spread


def kept_features(original: Original, plan: KeepPlan) -> Tensor:
    """Which of the unpruned model's features the smaller one has: bool [features]."""
    weight = f"{original.classifier[0]}.weight"
    mask = original.structure.tensor_masks(plan)[weight][1]
    size = original.model.get_parameter(weight).shape[1]
    kept = torch.ones(size, dtype=torch.bool) if mask is None else torch.from_numpy(mask)
    return kept.to(original.device)
