from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mvp_deploy.calibration.ranges import clip_ranges, float_tensors, measure_ranges, with_shapes
from mvp_deploy.calibration.thresholds import METHODS
from mvp_deploy.exporters.session import open_session

if TYPE_CHECKING:
    from conftest import Trained


def test_ranges_are_the_extremes_over_all_images(trained: Trained) -> None:
    model, images = trained.measured.model, trained.measured.images.images
    name = model.graph.output[0].name
    logits = open_session(model.SerializeToString()).run([name], {model.graph.input[0].name: images})[0]
    found = trained.measured.ranges
    assert found[name] == pytest.approx((logits.min(), logits.max()), rel=1e-5)
    assert found[model.graph.input[0].name] == (images.min(), images.max())
    assert set(found) == set(float_tensors(with_shapes(model)))


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_images_changes_nothing(trained: Trained, method: str) -> None:
    model, images = trained.measured.model, trained.measured.images.images[:24]
    tensors = [node.input[0] for node in model.graph.node if node.op_type == "Conv"]
    results = []
    for order in (np.arange(24), np.random.default_rng(0).permutation(24)):
        ranges = measure_ranges(model, images[order])
        results.append(clip_ranges(model, ranges, tensors, images[order], method))
    assert results[0] == results[1]


def test_images_stream_through(trained: Trained) -> None:
    """However many images there are, no more than two are held at a time."""
    seen: list[weakref.ref] = []

    def images() -> Iterator[np.ndarray]:
        for index in range(20):
            image = trained.measured.images.images[index].copy()
            seen.append(weakref.ref(image))
            yield image
            del image
            assert sum(reference() is not None for reference in seen) <= 2

    model = trained.measured.model
    clip_ranges(model, measure_ranges(model, images()), [model.graph.node[0].output[0]], images(), "entropy")
    assert len(seen) == 40


def test_clipping_only_narrows(trained: Trained) -> None:
    model, ranges = trained.measured.model, trained.measured.ranges
    tensors = [node.input[0] for node in model.graph.node if node.op_type == "Conv"]
    clipped = clip_ranges(model, ranges, tensors, trained.measured.images.images, "percentile")
    changed = {name for name in ranges if clipped[name] != ranges[name]}
    assert changed
    assert changed <= set(tensors)
    assert all(clipped[n][0] >= ranges[n][0] and clipped[n][1] <= ranges[n][1] for n in changed)
