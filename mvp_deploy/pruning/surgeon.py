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

PENALTY = 1e-3  # of the mean diagonal of the covariance: what keeps P finite


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads the units: what it does with them.

    weight: float [outputs, columns]. covariance: of its inputs, centred, float [columns, columns]. sensitivity: mean
    over images of the squared gradients of the loss by each output, summed over places, float [outputs]. columns: of
    each unit, int64 [units, columns of a unit]. rows: how many the covariance is of.
    """

    weight: np.ndarray
    covariance: np.ndarray
    sensitivity: np.ndarray
    columns: np.ndarray
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
        order.extend(left[gone])
        rises.extend(prices)
        states = [state.without(gone) for state in states]
        left = np.delete(left, gone)
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

    weight: np.ndarray
    inverse: np.ndarray
    width: int  # columns of a unit

    @classmethod
    def of(cls, reader: Reader) -> _State:
        covariance = reader.covariance.astype(np.float64)
        share = PENALTY + len(covariance) / reader.rows  # from few rows units seem to follow from others that do not
        penalty = share * max(float(np.mean(np.diag(covariance))), 1e-30)
        inverse = np.linalg.inv(covariance + penalty * np.eye(len(covariance)))
        columns = reader.columns.ravel()
        weight = np.sqrt(reader.sensitivity / 2)[:, None] * reader.weight[:, columns]
        if len(weight) > len(columns):
            weight = np.linalg.qr(weight, mode="r")  # the same products with fewer rows
        return cls(weight.astype(np.float64), inverse[np.ix_(columns, columns)], reader.columns.shape[1])

    def prices(self) -> np.ndarray:
        """What removing each unit alone would cost."""
        if self.width == 1:
            return np.square(self.weight).sum(0) / np.diag(self.inverse).clip(1e-300)
        units = self.weight.shape[1] // self.width
        weight = self.weight.reshape(len(self.weight), units, self.width).transpose(1, 0, 2)
        each = np.arange(units)
        blocks = self.inverse.reshape(units, self.width, units, self.width)[each, :, each]
        return np.trace(np.linalg.solve(blocks, weight.transpose(0, 2, 1) @ weight), axis1=1, axis2=2)

    def only(self, units: np.ndarray) -> _State:
        """The same for a few units, as if no other would go."""
        columns = self._columns(units)
        return _State(self.weight[:, columns], self.inverse[np.ix_(columns, columns)], self.width)

    def with_none_of(self, unit: int) -> _State:
        """As `without`, but the unit keeps its place, where nothing is left of it: quicker for few units."""
        own = slice(unit * self.width, (unit + 1) * self.width)
        share = np.linalg.solve(self.inverse[own, own], self.inverse[own])
        weight, inverse = self.weight - self.weight[:, own] @ share, self.inverse - self.inverse[:, own] @ share
        weight[:, own], inverse[own], inverse[:, own], inverse[own, own] = 0, 0, 0, np.eye(self.width)
        return _State(weight, inverse, self.width)

    def without(self, units: np.ndarray) -> _State:
        """After the units went and the rest made up for them."""
        gone = self._columns(units)
        stays = np.delete(np.arange(self.weight.shape[1]), gone)
        share = np.linalg.solve(self.inverse[np.ix_(gone, gone)], self.inverse[np.ix_(gone, stays)])
        return _State(
            self.weight[:, stays] - self.weight[:, gone] @ share,
            self.inverse[np.ix_(stays, stays)] - self.inverse[np.ix_(stays, gone)] @ share,
            self.width,
        )

    def _columns(self, units: np.ndarray) -> np.ndarray:
        return (units[:, None] * self.width + np.arange(self.width)).ravel()


def _cheapest(states: Sequence[_State], at_most: int) -> tuple[np.ndarray, list[float]]:
    """The next units to go, up to ``at_most``, and what each costs after those before it.

    Only a short list of the cheapest is downdated one by one, until a unit outside of it may be cheaper.
    """
    prices = np.sum([state.prices() for state in states], axis=0)
    by_price = np.argsort(prices, kind="stable")
    names = by_price[: 2 * at_most + 8]
    limit = prices[by_price[len(names)]] if len(names) < len(prices) else np.inf
    short = [state.only(names) for state in states]
    gone: list[int] = []  # places in the short list
    paid: list[float] = []
    while len(gone) < at_most:
        now = np.sum([state.prices() for state in short], axis=0)
        now[gone] = np.inf
        place = int(np.argmin(now))
        if gone and now[place] > limit:
            break
        gone.append(place)
        paid.append(max(float(now[place]), 0.0))
        short = [state.with_none_of(place) for state in short]
    return names[gone], paid
