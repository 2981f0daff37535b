"""A model that surgery can only make smaller as a recorded program."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mixed(nn.Module):
    """Its head size is computed from two sizes that shrink on their own, so no attribute makes the forward right.

    And it casts to the input's number format, as xcit's positions do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5))
        self.heads = 4
        self.qkv, self.proj, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)
        self.register_buffer("bias", torch.rand(16), persistent=False)
        self.place = nn.Linear(1, 16)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.bias
        places = torch.linspace(0, 1, x.shape[1], dtype=torch.float32, device=x.device)
        x = x + self.place(places[:, None].to(x.dtype))
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = ((q @ k.transpose(-2, -1)) * 0.3).softmax(-1) @ v
        return self.head(self.proj(x.transpose(1, 2).reshape(b, n, c)).mean(1))
