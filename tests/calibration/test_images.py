from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_deploy.calibration.images import COUNT, CalibrationImages, choose
from mvp_deploy.exporters.errors import MvpError

SOME = CalibrationImages(np.random.default_rng(0).standard_normal((5, 3, 4, 4), np.float32), np.arange(5))


@given(st.lists(st.integers(1, 300), min_size=2, max_size=6), st.integers(0, 9))
def test_classes_are_as_even_as_they_can_be(sizes: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    chosen = choose(labels, seed=seed)
    assert len(set(chosen.tolist())) == min(COUNT, len(labels))
    taken = np.bincount(labels[chosen], minlength=len(sizes))
    assert all(count == size or count >= taken.max() - 1 for count, size in zip(taken, sizes, strict=True))


def test_the_seed_decides_which_images() -> None:
    labels = np.repeat(np.arange(4), 100)
    assert choose(labels, seed=1).tolist() == choose(labels, seed=1).tolist()
    assert choose(labels, seed=1).tolist() != choose(labels, seed=2).tolist()


def test_too_few_images_are_reported() -> None:
    assert "only 5 images to calibrate on" in (SOME.warning or "")
    enough = CalibrationImages(np.zeros((COUNT, 3, 1, 1), np.float32), np.zeros(COUNT, np.int64))
    assert enough.warning is None


def test_saved_images_come_back_and_equal_ones_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        SOME.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = CalibrationImages.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.images, SOME.images)
    np.testing.assert_array_equal(loaded.labels, SOME.labels)
    assert loaded.sha256 == SOME.sha256


def test_other_images_under_the_same_checksum_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=SOME.images + 1, labels=SOME.labels, sha256=np.array(SOME.sha256))
    with pytest.raises(MvpError, match="checksum"):
        CalibrationImages.load(tmp_path / "a.npz")


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    SOME.save(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(MvpError, match="export the model again"):
        CalibrationImages.load(tmp_path / "a.npz")
