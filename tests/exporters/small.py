"""A convolutional net small enough to export in a moment, and images for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

IMAGES = np.random.default_rng(0).standard_normal((5, 3, 8, 8), np.float32)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(288, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()
