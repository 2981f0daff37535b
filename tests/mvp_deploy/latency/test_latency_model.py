"""Predictions keep what is true of every machine: steps, and never less for more."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.profiles import blocks_of, chain, profile_by, structure_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_deploy.latency.model import LatencyModel, fit

WIDTH = st.integers(1, 80)


@pytest.fixture(scope="module", params=[1, 8])
def stepped(request: pytest.FixtureRequest) -> tuple[int, LatencyModel]:
    model = chain(64, 48, 80)
    return request.param, fit(profile_by(model, structure_of(model), blocks_of(request.param)))


def test_a_machine_that_follows_the_formula_is_found_exactly(stepped: tuple[int, LatencyModel]) -> None:
    step, model = stepped
    assert model.step == step
    assert model.layer(1, 33, 40) == pytest.approx(blocks_of(step)(33, 40), rel=1e-3)


def test_a_width_of_33_costs_as_much_as_40_where_the_machine_computes_in_eights(
    stepped: tuple[int, LatencyModel],
) -> None:
    step, model = stepped
    equal = model.layer(1, 33, 16) == model.layer(1, 40, 16)
    assert equal == (step == 8)


@given(WIDTH, WIDTH, st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_more_rows_or_columns_never_take_less(
    stepped: tuple[int, LatencyModel], rows: int, columns: int, more: int, wider: int
) -> None:
    _, model = stepped
    assert 0 <= model.layer(1, rows, columns) <= model.layer(1, rows + more, columns + wider)


def test_the_whole_is_its_overhead_and_its_layers(stepped: tuple[int, LatencyModel]) -> None:
    _, model = stepped
    shapes = [(64, 3), (48, 64), (80, 48), (4, 80)]
    layers = sum(model.layer(number, *shape) for number, shape in enumerate(shapes))
    assert model.total(shapes) == pytest.approx(model.overhead + layers)
    assert model.overhead == pytest.approx(0.1, rel=0.05)


def test_one_shape_at_a_time_and_many_at_once_are_the_same(stepped: tuple[int, LatencyModel]) -> None:
    _, model = stepped
    for rows, columns in ((1, 1), (33, 40), (48, 64), (7, 3)):
        at_once = model.fits[1].ms(np.array([[rows, columns]]), model.step, model.alignment)[0]
        assert model.layer(1, rows, columns) == pytest.approx(model.scale * at_once)
