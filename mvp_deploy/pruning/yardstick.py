"""How much of the unpruned model's features a smaller one still gives, after each step of its making."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.pruning.head import features, ridge_classifier
from mvp_deploy.pruning.original import Original
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images

MEASURED = 512  # training images at most


@dataclass(frozen=True)
class Measure:
    """output_error: of the features that stay, the root mean square difference from the unpruned model's, relative to
    these features' spread (1: no better than their mean). loo_accuracy, loo_loss: of a head in closed form on the
    training images, each judged by the head that the others give."""

    output_error: float
    loo_accuracy: float
    loo_loss: float


class Yardstick:
    """Measures smaller models of one task by its training images; their classifier must be one linear layer."""

    def __init__(self, original: Original, train: Images) -> None:
        self.original, self.train = original, train
        self.whole, self.labels = self._features(original.model)

    @property
    def unpruned(self) -> Measure:
        return self._judged(self.whole, self.original.full)

    def measure(self, model: nn.Module, plan: KeepPlan) -> Measure:
        """Of the model that ``plan`` describes, whatever its weights."""
        return self._judged(self._features(model)[0], plan)

    def _judged(self, seen: Tensor, plan: KeepPlan) -> Measure:
        kept = self.original.structure.tensor_masks(plan)[f"{self.original.classifier[0]}.weight"][1]
        head = ridge_classifier(seen, self.labels, self.original.num_classes)
        return Measure(_relative(seen, _kept(self.whole, kept)), head.loo_accuracy, head.loo_loss)

    def _features(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        [seen], labels = features(model, self.original.classifier, self.train, MEASURED)
        return seen[:MEASURED], labels[:MEASURED]


def measurable(original: Original) -> bool:
    """Whether the model's classifier is a linear layer, so that a `Yardstick` can measure smaller ones."""
    names = original.classifier
    return len(names) == 1 and isinstance(original.model.get_submodule(names[0]), nn.Linear)


def _kept(features: Tensor, mask: np.ndarray | None) -> Tensor:
    return features if mask is None else features[:, torch.from_numpy(mask)]


def _relative(got: Tensor, wanted: Tensor) -> float:
    spread = (wanted - wanted.mean(0)).norm()
    return float((got - wanted).norm() / spread) if spread > 0 else 0.0
