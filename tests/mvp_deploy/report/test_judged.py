"""What pruning cost, image by image and class by class, on answers that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.bundle import tiny_bundle

from mvp_deploy import bundle
from mvp_deploy.base.errors import InputError
from mvp_deploy.bundle.format import HELD_OUT
from mvp_deploy.report.judged import Judged, judged
from mvp_deploy.report.pictures import picture
from mvp_deploy.tasks.task import Split

FOUND = {"unpruned": np.array([0, 0, 1, 1, 0]), "pruned": np.array([0, 1, 1, 0, 1])}
SURE = {"unpruned": np.full(5, 0.95, np.float32), "pruned": np.array([0.95, 0.65, 0.95, 0.85, 0.95], np.float32)}
JUDGED = Judged(("cat", "dog"), np.array([0, 0, 1, 1, 1]), FOUND, SURE)


def test_images_that_pruning_lost_come_in_the_order_of_its_confidence() -> None:
    assert JUDGED.lost().tolist() == [3, 1]
    assert JUDGED.confusion("pruned").tolist() == [[1, 1], [1, 2]]


def test_the_class_that_lost_most_comes_first() -> None:
    rows = JUDGED.per_class()
    assert [row[:4] for row in rows] == [("cat", "2", "100.0%", "50.0%"), ("dog", "3", "66.7%", "66.7%")]
    assert rows[0][4].startswith("-50.0 points")


def test_the_calibration_error_weighs_bins_by_their_images() -> None:
    points, error = JUDGED.reliability("pruned")
    # three at 0.95 are all right; one at 0.65 and one at 0.85 are both wrong
    assert points == [pytest.approx((0.65, 0)), pytest.approx((0.85, 0)), pytest.approx((0.95, 1.0))]
    assert error == pytest.approx((0.65 + 0.85 + 3 * 0.05) / 5)


def test_answers_are_read_from_the_bundle_and_checked(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "b", ["fp32"])
    assert judged(bundle.read(path)) is None

    def add(labels: np.ndarray) -> None:
        arrays = {"labels": labels, **FOUND, **{f"{name}_sure": sure for name, sure in SURE.items()}}
        bundle.write_arrays(tmp_path / "answers", arrays)
        bundle.add(path, {HELD_OUT: (tmp_path / "answers").read_bytes()})

    add(JUDGED.labels)
    found = judged(bundle.read(path))
    assert found
    assert found.lost().tolist() == [3, 1]
    add(np.array([0, 0, 1, 1, 99]))
    with pytest.raises(InputError, match="classes that there are not"):
        judged(bundle.read(path))


def test_a_picture_is_inside_the_page() -> None:
    pixels = np.zeros((1, 300, 200, 3), np.uint8)
    found = picture(Split(pixels, np.array([0])), 0, "a cat")
    assert found.data.startswith("data:image/jpeg;base64,")
    assert len(found.data) < 10_000
