from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_deploy.exporters.errors import DeployError, ExitCode
from mvp_deploy.exporters.parity import check_parity, compare

LOGITS = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)


def test_equal_logits_agree_wholly() -> None:
    parity = check_parity(LOGITS, LOGITS.copy(), tolerance=0)
    assert (parity.relative, parity.agreement, parity.images) == (0, 1, 8)


@given(st.integers(0, 39), st.floats(1e-6, 1.0), st.floats(1e-3, 1e3))
def test_the_difference_is_relative_to_the_largest_logit(where: int, part: float, scale: float) -> None:
    reference = (LOGITS * scale).astype(np.float64)
    changed = reference.copy()
    changed.flat[where] += part * np.abs(reference).max()
    assert compare(reference, changed).relative == pytest.approx(part)


@pytest.mark.parametrize(
    "got",
    [LOGITS + 0.01, np.full_like(LOGITS, np.nan), LOGITS[:, :4]],
    ids=["off", "not finite", "other shape"],
)
def test_disagreement_is_refused_with_its_exit_code(got: np.ndarray) -> None:
    with pytest.raises(DeployError) as caught:
        check_parity(LOGITS, got, 1e-4)
    assert caught.value.code == ExitCode.PARITY


def test_a_chosen_tolerance_holds() -> None:
    parity = check_parity(LOGITS, LOGITS + 0.01, tolerance=0.1)
    assert 0 < parity.relative < 0.1
