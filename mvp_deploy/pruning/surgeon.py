"""Optimal Brain Surgeon for units: the loss that removing each would cost if its readers made up for it at once.

A layer that reads the units gives y = W x. Without unit j, and with the rest of W re-solved by least squares, the
loss rises to second order by

    1/2 sum_o F_o W_oj [P_jj]^-1 W_oj^T,    P = H^-1

where H are the covariances of the inputs and F the loss's squared gradients at the outputs (Hassibi and Stork 1992;
the Kronecker form with a diagonal F as in K-FAC, Martens and Grosse 2015). The cheapest unit goes, W and P are
downdated, and so on to the last (ZipLM, Kurtic et al. 2023, arXiv 2302.04089). A unit of several columns, such as a
channel under a 3x3 kernel or an attention head, is the same with blocks for numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PENALTY = 1e-3  # of the mean diagonal of the covariance: what keeps P finite


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads the units: what it does with them.

    weight: float64 [outputs, columns]. covariance: of its inputs, centred, float64 [columns, columns]. sensitivity:
    mean over images of the squared gradients of the loss by each output, summed over places, float64 [outputs].
    columns: of each unit, int64 [units, columns of a unit]. rows: how many the covariance is of. All on one device.
    """

    weight: Tensor
    covariance: Tensor
    sensitivity: Tensor
    columns: Tensor
    rows: float = math.inf


def removal(readers: Sequence[Reader]) -> tuple[np.ndarray, np.ndarray]:
    """Remove unit after unit, always the cheapest.

    Returns:
        The units in the order they go, int64 [units], and the rise in loss that each brings, in nats, float64.
    """
    states = [_State.of(reader) for reader in readers]
    left = np.arange(len(readers[0].columns))
    order: list[int] = []
    rises: list[float] = []
    while len(left):
        gone, prices = _cheapest(states, at_most=max(1, len(left) // 32))
        places = gone.cpu().numpy()
        order.extend(left[places])
        rises.extend(prices)
        states = [state.without(gone) for state in states]
        left = np.delete(left, places)
    return np.array(order, np.int64), np.array(rises)


def scores(readers: Sequence[Reader]) -> np.ndarray:
    """The rise in loss when a unit goes after all that are cheaper: float64 [units], ascending in their order."""
    order, rises = removal(readers)
    result = np.empty(len(order))
    later = 1 + 1e-9 * np.arange(len(order))  # so that none is equal to an earlier one
    result[order] = np.maximum.accumulate(rises) * later
    return result


@dataclass(frozen=True, eq=False)
class _State:
    """weight [rows, units x width] scaled by the root of sensitivity, and P = H^-1, of the units still there."""

    weight: Tensor
    inverse: Tensor
    width: int  # columns of a unit

    @classmethod
    def of(cls, reader: Reader) -> _State:
        covariance, columns = reader.covariance, reader.columns.flatten()
        share = PENALTY + len(covariance) / reader.rows  # from few rows units seem to follow from others that do not
        penalty = share * covariance.diagonal().mean().clamp_min(1e-30)
        held = covariance + penalty * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        inverse = torch.linalg.inv(held)[columns[:, None], columns]
        weight = (reader.sensitivity / 2).sqrt()[:, None] * reader.weight[:, columns]
        if len(weight) > len(columns):
            weight = torch.linalg.qr(weight, mode="r").R  # the same products with fewer rows
        return cls(weight, inverse, reader.columns.shape[1])

    def prices(self) -> Tensor:
        """What removing each unit alone would cost, float64 [units]."""
        if self.width == 1:
            return self.weight.square().sum(0) / self.inverse.diagonal().clamp_min(1e-300)
        units = self.weight.shape[1] // self.width
        weight = self.weight.reshape(-1, units, self.width).transpose(0, 1)
        each = torch.arange(units, device=weight.device)
        blocks = self.inverse.reshape(units, self.width, units, self.width)[each, :, each]
        return torch.linalg.solve(blocks, weight.mT @ weight).diagonal(dim1=1, dim2=2).sum(1)

    def only(self, units: Tensor) -> _State:
        """The same for a few units, as if no other would go, on the CPU."""
        columns = self._columns(units)
        return _State(self.weight[:, columns].cpu(), self.inverse[columns[:, None], columns].cpu(), self.width)

    def with_none_of(self, unit: int) -> _State:
        """As `without`, but the unit keeps its place, where nothing is left of it: quicker for few units."""
        own = slice(unit * self.width, (unit + 1) * self.width)
        block, rows = self.inverse[own, own], self.inverse[own]
        share = rows / block if self.width == 1 else torch.linalg.solve(block, rows)
        weight = torch.addmm(self.weight, self.weight[:, own], share, alpha=-1)
        inverse = torch.addmm(self.inverse, self.inverse[:, own], share, alpha=-1)
        weight[:, own], inverse[own], inverse[:, own] = 0, 0, 0
        inverse[own, own] = torch.eye(self.width, dtype=inverse.dtype)
        return _State(weight, inverse, self.width)

    def without(self, units: Tensor) -> _State:
        """After the units went and the rest made up for them."""
        gone = self._columns(units)
        left = torch.ones(self.weight.shape[1], dtype=torch.bool, device=gone.device)
        left[gone] = False
        stays = left.nonzero()[:, 0]
        share = torch.linalg.solve(self.inverse[gone[:, None], gone], self.inverse[gone[:, None], stays])
        return _State(
            self.weight[:, stays] - self.weight[:, gone] @ share,
            self.inverse[stays[:, None], stays] - self.inverse[stays[:, None], gone] @ share,
            self.width,
        )

    def _columns(self, units: Tensor) -> Tensor:
        each = torch.arange(self.width, device=units.device)
        return (units[:, None] * self.width + each).flatten()


def _cheapest(states: Sequence[_State], at_most: int) -> tuple[Tensor, list[float]]:
    """The next units to go, up to ``at_most``, and what each costs after those before it.

    Only a short list of the cheapest is downdated one by one, until a unit outside of it may be cheaper.
    """
    prices = _sum([state.prices() for state in states])
    by_price = prices.argsort(stable=True)
    names = by_price[: 2 * at_most + 8]
    limit = float(prices[by_price[len(names)]]) if len(names) < len(prices) else math.inf
    short = [state.only(names) for state in states]
    gone: list[int] = []  # places in the short list
    paid: list[float] = []
    while len(gone) < at_most:
        now = _sum([state.prices() for state in short]).numpy()
        now[gone] = math.inf
        place = int(now.argmin())
        price = float(now[place])
        if gone and price > limit:
            break
        gone.append(place)
        paid.append(max(price, 0.0))
        short = [state.with_none_of(place) for state in short]
    return names[gone], paid


def _sum(prices: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(prices)).sum(0)
