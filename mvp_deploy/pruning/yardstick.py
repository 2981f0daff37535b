"""How much of the unpruned model's features a smaller one still gives, after each step of its making."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.pruning.head import features, ridge_classifier
from mvp_deploy.pruning.original import Original
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images

MEASURED = 512  # training images at most
BLANK = 1e-5  # of features' size: a spread that is rounding alone
FEW = 30  # with fewer, an image is worth more than three points


@dataclass(frozen=True)
class Measure:
    """How much a model lost.

    output_error: root mean square difference of the features that stay from the unpruned model's, relative to their
    spread (1: no better than their mean). loo_accuracy, loo_loss: leave-one-out, of a head in closed form on the
    training images.
    """

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

    @property
    def doubts(self) -> Iterator[str]:
        """Sentences on why leave-one-out numbers say little of this task."""
        counts, images = self.train.labels.bincount(minlength=self.original.num_classes), len(self.train)
        if images < FEW:
            noun = "image is little to judge by" if images == 1 else "images are little to judge by"
            each = f"{100 / images:.0f} points of leave-one-out accuracy"
            yield f"{images} training {noun}: each is worth {each}, so smaller differences say nothing"
        if alone := int((counts == 1).sum()):
            yield (
                f"{alone} of {len(counts)} classes have one training image: without it nothing is known of the class, "
                "so its leave-one-out answer is wrong whatever the model"
            )
        if images > 1 and _spread(self.whole) <= BLANK * self.whole.norm():
            yield "all training images give the same features, so nothing tells the classes apart: are they blank?"

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
    spread = _spread(wanted)
    return float((got - wanted).norm() / spread) if spread > 0 else 0.0


def _spread(features: Tensor) -> Tensor:
    return (features - features.mean(0)).norm()
