"""What the bank knows of a task's data: class prototypes in the pretrained backbone's feature space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvp_deploy.backbones import Backbone, build
from mvp_deploy.base.devices import full_float32
from mvp_deploy.tasks import Images


@dataclass(frozen=True, eq=False)
class Signature:
    """mean: each class's mean feature, float32 [classes, features]; count: its number of images, int64 [classes]."""

    mean: np.ndarray
    count: np.ndarray

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": torch.from_numpy(self.mean), "count": torch.from_numpy(self.count)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Signature:
        return cls(tensors["mean"].numpy(), tensors["count"].numpy())


@full_float32()
def sign(
    backbone: Backbone, state: Mapping[str, Tensor], train: Images, num_classes: int, device: torch.device
) -> Signature:
    """The signature of a task's training images under the backbone's pretrained weights (pooled features)."""
    model = build(backbone, state, 0).eval().to(device)
    total: Tensor | None = None
    count = torch.zeros(num_classes, dtype=torch.int64)
    with torch.no_grad():
        for x, y in train.passes():
            features = model(x).flatten(1).double().cpu()
            if total is None:
                total = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
            total.index_add_(0, y.cpu(), features)
            count += torch.bincount(y.cpu(), minlength=num_classes)
    if total is None:
        raise ValueError("no images")
    mean = total / count.clamp_min(1)[:, None]
    return Signature(mean.float().numpy(), count.numpy())
