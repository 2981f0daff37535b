from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_deploy.exporters.errors import ExitCode, MvpError
from mvp_deploy.exporters.parity import NoParity, check_parity, compare

LOGITS = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)


def test_equal_logits_agree_wholly() -> None:
    parity = check_parity(LOGITS, LOGITS.copy(), tolerance=0)
    assert (parity.relative, parity.agreement, parity.images) == (0, 1, 8)


@given(st.integers(0, 39), st.floats(1e-6, 1.0), st.floats(1e-3, 1e3))
def test_the_difference_is_relative_to_the_images_own_logits_and_never_to_smaller_than_usual_ones(
    where: int, part: float, scale: float
) -> None:
    reference = (LOGITS * scale).astype(np.float64)
    largest = np.abs(reference).max(1)
    changed = reference.copy()
    changed.flat[where] += part * max(largest[where // 5], np.median(largest))
    assert compare(reference, changed).relative == pytest.approx(part)


def stray(n: int, off: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of n images, and the same but for one picture that is wholly off; its own are great, too."""
    reference = np.random.default_rng(0).standard_normal((n, 5))
    reference[3] *= 100
    changed = reference.copy()
    changed[3] -= off * reference[3]
    return reference, changed


@pytest.mark.parametrize("n", [5, 20, 100])
def test_one_unusual_picture_does_not_decide_over_a_reduced_precision(n: int) -> None:
    reference, changed = stray(n)
    assert check_parity(reference, changed, 0.3, exact=False).agreement < 1
    with pytest.raises(NoParity, match=f"logits of {n} images") as caught:
        check_parity(reference, changed, 1e-4)
    assert caught.value.worst == 3


def test_an_image_of_great_logits_does_not_hide_what_is_wrong_with_the_others() -> None:
    reference, _ = stray(100)
    with pytest.raises(NoParity, match="median"):
        check_parity(reference, reference + 1, 0.3, exact=False)


def test_more_than_a_few_spoilt_images_are_refused_and_those_that_keep_their_class_are_not_spoilt() -> None:
    reference, _ = stray(100)
    spoilt, louder = reference.copy(), reference.copy()
    spoilt[:6] *= -1
    louder[:40] *= 2
    with pytest.raises(NoParity, match="6 of them are farther off and get another class, 5 may"):
        check_parity(reference, spoilt, 0.3, exact=False)
    assert check_parity(reference, louder, 0.3, exact=False).agreement == 1


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0])
def test_a_tolerance_that_is_not_a_number_allows_nothing(tolerance: float) -> None:
    with pytest.raises(NoParity):
        check_parity(LOGITS, LOGITS + 1e-3, tolerance)


@pytest.mark.parametrize(
    "got",
    [LOGITS + 0.01, np.full_like(LOGITS, np.nan), LOGITS[:, :4]],
    ids=["off", "not finite", "other shape"],
)
def test_disagreement_is_refused_with_its_exit_code(got: np.ndarray) -> None:
    with pytest.raises(MvpError) as caught:
        check_parity(LOGITS, got, 1e-4)
    assert caught.value.code == ExitCode.PARITY


def test_a_chosen_tolerance_holds() -> None:
    parity = check_parity(LOGITS, LOGITS + 0.01, tolerance=0.1)
    assert 0 < parity.relative < 0.1
