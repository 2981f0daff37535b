"""Second moments of what a model's linear layers read: streaming, additive over images and over tasks.

Accumulated in float32, they take 4 bytes x (columns + 1)^2 for each layer: 85 MB for the widest 3x3 convolutions of a
resnet50 (4608 columns), half a gigabyte for all its layers. Where a layer has many more places than its columns need,
places are drawn at random (`ROWS_PER_COLUMN`), and their sums scaled up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mvp_deploy.base.devices import full_float32
from mvp_deploy.pruning.linear import LinearCalls, LinearLayer

ROWS_PER_COLUMN = 64  # for each unknown of a regression: the noise in its solution is then far below what is left over
LEAST_PLACES = 16  # of each image, however few columns a layer has


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's inputs.

    products: the sum of x x^T over all positions of the images, x being a row of the layer's inputs with a constant 1
    as its last number; float32 [groups, columns + 1, columns + 1]. images: their number.
    """

    products: Tensor
    images: int

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.products + other.products, self.images + other.images)


@dataclass(frozen=True)
class CrossMoments:
    """All that least squares need to know of inputs x, a constant 1 their last number, and the outputs y wanted.

    Sums over rows, float64: inputs x x^T [groups, columns + 1, columns + 1], cross x y^T [groups, columns + 1,
    outputs], squares y^2 [groups, outputs].
    """

    inputs: Tensor
    cross: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> CrossMoments:
        """x: [groups, n, columns + 1], y: [groups, n, outputs]."""
        return cls((x.mT @ x).double(), (x.mT @ y).double(), y.double().square().sum(1))

    def __add__(self, other: CrossMoments) -> CrossMoments:
        return CrossMoments(self.inputs + other.inputs, self.cross + other.cross, self.squares + other.squares)

    def __sub__(self, other: CrossMoments) -> CrossMoments:
        return CrossMoments(self.inputs - other.inputs, self.cross - other.cross, self.squares - other.squares)

    def error(self, weight: Tensor) -> Tensor:
        """The sum of squared errors of each output of y = W x; weight: [groups, outputs, columns + 1]."""
        explained = (weight * (2 * self.cross.mT - weight @ self.inputs)).sum(2)
        return (self.squares - explained).clamp_min(0)

    @property
    def spread(self) -> Tensor:
        """The sum of squared differences of each output from its mean."""
        count = self.inputs[:, -1:, -1].clamp_min(1)
        return (self.squares - self.cross[:, -1].square() / count).clamp_min(0)

    def ridge(self, penalties: Iterable[float], towards: Tensor, *, constant: bool = True) -> Iterator[Tensor]:
        """For each penalty, weights [groups, outputs, columns + 1] that lower the squared error, not far from others.

        min |W x - y|^2 + penalty x m |W - towards|^2, m being the mean square of the inputs: NaN in a group where
        rounding left the problem without a solution. constant: whether the last number of ``towards`` may change too.
        """
        n = self.inputs.shape[-1] - (0 if constant else 1)
        diagonal = self.inputs.diagonal(dim1=1, dim2=2)
        size = diagonal[:, :-1].mean(1, keepdim=True)
        size = torch.where(size > 0, size, torch.ones_like(size))
        free = FREE * diagonal[:, -1:].clamp_min(1)
        residual = (self.cross - self.inputs @ towards.mT)[:, :n]
        for penalty in penalties:
            held = self.inputs[:, :n, :n].clone()
            held.diagonal(dim1=1, dim2=2)[:, : self.inputs.shape[-1] - 1].add_(penalty * size)
            if constant:
                held.diagonal(dim1=1, dim2=2)[:, -1:].add_(free)
            factor, failed = torch.linalg.cholesky_ex(held)
            change = torch.cholesky_solve(residual, factor)
            change[failed > 0] = torch.nan
            solved = towards.clone()
            solved[:, :, :n] += change.mT
            yield solved


FREE = 1e-9  # the constant is not held back, but for rounding


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


@full_float32()
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
