"""Second moments of what a model's linear layers read: streaming, additive over images and over tasks.

Accumulated in float32, they take 4 bytes x (columns + 1)^2 for each layer: 85 MB for the widest 3x3 convolutions of a
resnet50 (4608 columns), half a gigabyte for all its layers. Where a layer has many more places than its columns need,
places are drawn at random (`ROWS_PER_COLUMN`), and their sums scaled up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvp_deploy.pruning.linear import LinearCalls, LinearLayer

ROWS_PER_COLUMN = 64  # for each unknown of a regression: the noise in its solution is then far below what is left over
LEAST_PLACES = 16  # of each image, however few columns a layer has


@dataclass(frozen=True)
class Moments:
    """products: the sum of x x^T over all places of the images, x being a row of the layer's inputs with a constant 1
    as its last number; float32 [groups, columns + 1, columns + 1]. images: over how many."""

    products: Tensor
    images: int

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.products + other.products, self.images + other.images)

    @property
    def per_image(self) -> Tensor:
        """The mean over images of the sum over an image's places."""
        return self.products / max(self.images, 1)


def with_constant(rows: Tensor) -> Tensor:
    """Rows [groups, n, columns] with a constant 1 as their last number."""
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], -1)


def draw_places(layer: LinearLayer, x: Tensor, images: int, generator: torch.Generator) -> Tensor | None:
    """Which places of each item of ``x`` to take, so that ``images`` of them make enough rows; None for all."""
    places = layer.places(x)
    rows_of_image = places * max(len(x) // images, 1)
    enough = max(LEAST_PLACES, -(-ROWS_PER_COLUMN * (layer.columns + 1) // images))
    if rows_of_image <= enough:
        return None
    wanted = max(1, enough * places // rows_of_image)
    return torch.randperm(places, generator=generator)[:wanted].sort().values


def collect(
    model: nn.Module,
    layers: Mapping[str, LinearLayer],
    batches: Iterable[tuple[Tensor, Tensor]],
    images: int,
    *,
    seed: int = 0,
) -> dict[str, Moments]:
    """The moments of every layer's inputs, from one pass over ``batches``, in eval mode.

    Args:
        batches: images float32 [b, 3, H, W], and labels, which are not read.
        images: how many there are in all, which decides how many places of each are taken.
    """
    sums: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    seen = 0

    def add(layer: LinearLayer, x: Tensor, y: Tensor) -> None:
        at = draw_places(layer, x, images, generator)
        rows = with_constant(layer.inputs(x.detach(), at).float())
        share = 1.0 if at is None else layer.places(x) / len(at)
        total = sums.get(layer.weight)
        if total is None:
            sums[layer.weight] = total = rows.new_zeros(layer.groups, layer.columns + 1, layer.columns + 1)
        total.baddbmm_(rows.mT, rows, alpha=share)

    model.eval()
    with torch.no_grad(), LinearCalls(model, layers, add):
        for x, _ in batches:
            model(x)
            seen += len(x)
    return {name: Moments(total, seen) for name, total in sums.items()}
