"""Where to clip a tensor before its values are rounded to int8: rare outliers may cost more than they are worth.

Each method takes the histogram of |x|, int64 [BINS] from 0 to the greatest |x|, and gives the share of that greatest
value at which to clip, over 0 and at most 1.
"""

from __future__ import annotations

import numpy as np

BINS = 2048
LEVELS = 128  # steps from 0 to the threshold
CANDIDATES = np.arange(LEVELS, BINS + 1, 16)  # numbers of bins to keep that are tried
PERCENTILE = 0.9999


def minmax(histogram: np.ndarray) -> float:
    """Clip nothing."""
    return 1.0


def percentile(histogram: np.ndarray) -> float:
    """Keep 99.99 % of the values."""
    cumulative = np.cumsum(histogram)
    return float(np.searchsorted(cumulative, PERCENTILE * cumulative[-1]) + 1) / BINS


def mse(histogram: np.ndarray) -> float:
    """The least mean squared error of the values after clipping and rounding."""
    centres = np.arange(BINS) + 0.5
    errors = []
    for kept in CANDIDATES:
        step = kept / (LEVELS - 1)
        rounded = np.minimum(np.round(centres / step), LEVELS - 1) * step
        errors.append(np.dot(histogram, (centres - rounded) ** 2))
    return float(CANDIDATES[int(np.argmin(errors))]) / BINS


def entropy(histogram: np.ndarray) -> float:
    """The threshold of the least divergence between the distributions of the values and of the rounded values.

    Migacz, "8-bit inference with TensorRT", GTC 2017. The bin at zero counts like its neighbour, since zeros are exact
    after any rounding.
    """
    counts = histogram.astype(np.float64)
    counts[0] = counts[1]
    divergences = [_divergence(counts, int(kept)) for kept in CANDIDATES]
    return float(CANDIDATES[int(np.argmin(divergences))]) / BINS


def _divergence(counts: np.ndarray, kept: int) -> float:
    """Kullback and Leibler's divergence of the clipped distribution from its version in LEVELS steps."""
    inside = counts[:kept]
    clipped = inside.copy()
    clipped[-1] += counts[kept:].sum()
    level = np.arange(kept) * LEVELS // kept
    filled = inside > 0
    sums = np.bincount(level, inside, LEVELS)
    bins = np.bincount(level, filled, LEVELS)
    rounded = np.where(filled, (sums / np.maximum(bins, 1))[level], 0.0)
    if not rounded.any():
        return np.inf
    p, q = clipped / clipped.sum(), rounded / rounded.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))))


METHODS = {"minmax": minmax, "percentile": percentile, "mse": mse, "entropy": entropy}
