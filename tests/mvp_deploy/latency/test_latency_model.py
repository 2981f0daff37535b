"""Predictions keep what is true of every machine: steps, and never less for more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes.profiles import blocks_of, chain, profile_by, structure_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_deploy.latency.format import Precision
from mvp_deploy.latency.model import LatencyModel, _features, _fitted, _kernel, fit

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


def test_fewer_columns_than_a_block_are_paid_one_by_one(stepped: tuple[int, LatencyModel]) -> None:
    step, model = stepped
    assert model.layer(1, 16, 4) == pytest.approx(blocks_of(step)(16, 4), rel=1e-3)


@pytest.mark.parametrize(("alignment", "precision"), [(4, "fp32"), (16, "int8")])
def test_models_off_the_alignment_say_nothing_of_kernels_on_it(alignment: int, precision: Precision) -> None:
    model = chain(64, 48, 80, 96, 80)
    quiet = profile_by(model, structure_of(model), blocks_of(8), precision=precision)
    slow = [1.0 + 0.6 * any(rows % alignment for rows, _ in run.shapes[:-1]) for run in quiet.runs]
    kernels = [
        replace(
            kernel, samples=tuple(replace(one, ms=one.ms * by) for one, by in zip(kernel.samples, slow, strict=True))
        )
        for kernel in quiet.kernels
    ]
    runs = [replace(run, ms=run.ms * by) for run, by in zip(quiet.runs, slow, strict=True)]
    assert len(set(slow)) > 1
    assert slow.count(1.0) >= len(slow) / 2
    found = fit(replace(quiet, kernels=tuple(kernels), runs=tuple(runs)))
    assert found.alignment == alignment
    assert found.layer(1, 32, 48) == pytest.approx(blocks_of(8)(32, 48), rel=1e-3)


@pytest.mark.parametrize("even", [True, False], ids=["seen", "not seen, so slow"])
def test_widths_off_the_alignment_are_as_slow_as_their_grain(even: bool) -> None:
    """ONNX Runtime has fast kernels for depthwise layers of 20 or 44 channels, though not for 33 or 26."""
    rows = np.array([64, 8, 16, 32, 48, 56, 20, 44, 33, 51, *([26] if even else [])])
    shapes = np.stack([rows, np.ones_like(rows)], 1)
    ms = 0.01 * rows * np.where(rows % 4, 10, 1)
    found, _ = _kernel(shapes, ms, np.ones(len(rows), bool), 1, 8)
    assert found.ms(np.array([[40, 1], [36, 1], [35, 1], [34, 1]]), 1) == pytest.approx([0.4, 0.36, 3.5, 3.4])


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
        at_once = model.fits[1].ms(np.array([[rows, columns]]), model.step)[0]
        assert model.layer(1, rows, columns) == pytest.approx(model.scale * at_once)


def test_a_kernel_s_error_is_that_of_samples_which_its_fit_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    shapes = rng.integers(8, 80, (12, 2))
    ms = np.array([blocks_of(8)(*shape) for shape in shapes.tolist()]) * rng.uniform(0.95, 1.05, 12)
    features = _features(shapes, 8)[:, [0, 3]]  # of which a fit needs both, whichever sample is left out
    weight = 1 / ms
    alone = 0.0
    for place in range(12):
        others = np.arange(12) != place
        found = np.linalg.lstsq(features[others] * weight[others, None], np.ones(11), rcond=None)[0]
        alone += float(features[place] @ found / ms[place] - 1) ** 2
    assert _fitted(features, ms)[1] == pytest.approx(alone, rel=1e-6)
