"""Keep plans on paper."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mvp_deploy.base.errors import MvpError
from mvp_deploy.structure import KeepPlan

MASKS = st.dictionaries(
    st.text(min_size=1, max_size=8), hnp.arrays(bool, st.integers(1, 40)).filter(np.any), min_size=1, max_size=4
)


@given(MASKS)
def test_through_json_and_back(masks: dict[str, np.ndarray]) -> None:
    plan = KeepPlan(masks)
    again = KeepPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert all(again.kept(name) == mask.sum() for name, mask in masks.items())


def test_the_first_unit_is_the_first_digit() -> None:
    plan = KeepPlan({"conv": np.array([True] + [False] * 8)})
    assert plan.to_json() == {"conv": {"units": 9, "kept": "8000"}}


def test_plans_differ_by_a_unit_or_a_group() -> None:
    plan = KeepPlan({"a": np.array([True, False])})
    assert plan != KeepPlan({"a": np.array([True, True])})
    assert plan != KeepPlan({"b": np.array([True, False])})
    assert plan != "a"


def test_an_emptied_group_is_refused_by_name() -> None:
    with pytest.raises(MvpError, match=r"every unit of layer1\.conv"):
        KeepPlan({"layer1.conv": np.zeros(4, bool)})


@pytest.mark.parametrize(
    "data",
    [
        {"a": {"units": 9, "kept": "80"}},
        {"a": {"units": 8, "kept": "xy"}},
        {"a": {"kept": "80"}},
        {"a": {"units": "many", "kept": "80"}},
        {"a": "80"},
        ["a"],
    ],
)
def test_what_is_not_a_plan_is_refused(data: object) -> None:
    with pytest.raises(MvpError, match="not a keep plan"):
        KeepPlan.from_json(data)  # type: ignore[arg-type]
