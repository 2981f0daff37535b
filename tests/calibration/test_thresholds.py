from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mvp_deploy.calibration.thresholds import BINS, LEVELS, METHODS, mse


def histogram(values: np.ndarray) -> np.ndarray:
    return np.histogram(np.abs(values), BINS, (0, np.abs(values).max()))[0]


def rounding_error(values: np.ndarray, threshold: float) -> float:
    step = threshold / (LEVELS - 1)
    rounded = np.clip(np.round(values / step), 1 - LEVELS, LEVELS - 1) * step
    return float(((values - rounded) ** 2).mean())


@pytest.mark.parametrize("method", METHODS)
@given(arrays(np.int64, BINS, elements=st.integers(0, 5), fill=st.integers(0, 5)))
def test_a_threshold_is_a_share_of_the_greatest_value(method: str, counts: np.ndarray) -> None:
    counts[-1] += 1  # the greatest value is in the last bin
    assert 0 < METHODS[method](counts) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_evenly_spread_values_are_hardly_clipped(method: str) -> None:
    assert METHODS[method](np.full(BINS, 100)) > 0.9


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"minmax"}))
def test_a_lonely_outlier_is_clipped(method: str) -> None:
    values = np.append(np.random.default_rng(0).standard_normal(1_000_000), 60.0)
    assert METHODS[method](histogram(values)) * 60 < 15


@pytest.mark.parametrize("tail", [1.0, 5.0, 20.0])
def test_mse_rounds_with_less_error_than_no_clipping_does(tail: float) -> None:
    random = np.random.default_rng(1)
    values = np.append(random.standard_normal(50_000), tail * random.standard_normal(50))
    greatest = np.abs(values).max()
    assert rounding_error(values, mse(histogram(values)) * greatest) <= 1.02 * rounding_error(values, greatest)
