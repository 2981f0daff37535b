"""The knapsack under milliseconds, against every possible choice."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from fakes.profiles import blocks_of, chain, profile_by, structure_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_deploy.base.errors import InputError
from mvp_deploy.latency.cost import Milliseconds
from mvp_deploy.latency.format import Kernel, Layer
from mvp_deploy.latency.plan import solve
from mvp_deploy.pruning.budget import allowed_counts
from mvp_deploy.structure import Structure


@pytest.fixture(scope="module")
def small() -> tuple[Structure, Milliseconds]:
    model = chain(16, 16, 16)
    structure = structure_of(model)
    return structure, Milliseconds(structure, profile_by(model, structure, blocks_of(1)))


def lost(structure: Structure, scores: dict[str, np.ndarray], counts: dict[str, int]) -> float:
    return sum(float(np.sort(scores[g.name])[: g.size - counts[g.name]].sum()) for g in structure.groups)


@given(seed=st.integers(0, 10_000), share=st.floats(0.3, 1.0))
@settings(max_examples=15, deadline=None)
def test_no_other_choice_of_widths_keeps_more(small: tuple[Structure, Milliseconds], seed: int, share: float) -> None:
    structure, cost = small
    rng = np.random.default_rng(seed)
    scores = {group.name: rng.gamma(0.5, size=group.size) for group in structure.groups}
    limit = share * cost.total({})
    choices = [allowed_counts(group, 4).tolist() for group in structure.groups]
    plans = [dict(zip([g.name for g in structure.groups], chosen, strict=True)) for chosen in product(*choices)]
    best = min((lost(structure, scores, p) for p in plans if cost.total(p) <= limit), default=None)
    if best is None:
        with pytest.raises(InputError, match="smallest this backbone gets takes"):
            solve(structure, cost, scores, limit, round_to=4)
        return
    found = solve(structure, cost, scores, limit, round_to=4)
    assert found.ms <= limit * (1 + 1e-9)
    assert found.ms == pytest.approx(cost.total(found.counts))
    assert lost(structure, scores, found.counts) <= best * 1.005 + 1e-9
    assert found.gap is not None
    assert found.gap <= 0.005


def test_a_stream_that_many_layers_share_is_priced_in_all_of_them() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
            self.up, self.down = torch.nn.Conv2d(16, 32, 1), torch.nn.Conv2d(32, 16, 1)
            self.head = torch.nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head((x + self.down(self.up(x).relu())).mean((2, 3)))

    model = Net()
    structure = structure_of(model)
    cost = Milliseconds(structure, profile_by(model, structure, blocks_of(4)))
    scores = {group.name: np.ones(group.size) for group in structure.groups}
    found = solve(structure, cost, scores, 0.6 * cost.total({}), round_to=4)
    assert found.ms <= 0.6 * cost.total({}) < cost.total({})
    assert found.gap is not None
    name = next(group.name for group in structure.groups if group.size == 16)
    assert cost.saving({}, name, 8) == pytest.approx(cost.total({}) - cost.total({name: 8}))


def test_two_hundred_groups_are_solved_to_within_half_a_per_cent_of_the_optimum() -> None:
    model = chain(*[64] * 200)
    structure = structure_of(model)
    profile = profile_by(model, structure, blocks_of(8))
    first, *inner, last = profile.kernels  # layers of one kind share a kernel, as in a measured profile
    kernels = (first, Kernel("inner", tuple(sample for kernel in inner for sample in kernel.samples)), last)
    places = [0, *[1] * len(inner), 2]
    layers = tuple(Layer(layer.weight, place) for layer, place in zip(profile.layers, places, strict=True))
    cost = Milliseconds(structure, replace(profile, kernels=kernels, layers=layers))
    rng = np.random.default_rng(0)
    scores = {group.name: rng.gamma(0.5, size=group.size) for group in structure.groups}
    found = solve(structure, cost, scores, 0.5 * cost.total({}))
    assert len(found.counts) == 200
    assert found.ms == pytest.approx(cost.total(found.counts))
    assert found.ms <= 0.5 * cost.total({})
    assert found.gap is not None
    assert found.gap <= 0.005


def test_enough_time_for_everything_keeps_everything(small: tuple[Structure, Milliseconds]) -> None:
    structure, cost = small
    scores = {group.name: np.ones(group.size) for group in structure.groups}
    found = solve(structure, cost, scores, 10 * cost.total({}))
    assert found.counts == {group.name: group.size for group in structure.groups}


def test_a_profile_of_another_image_size_or_backbone_is_refused_by_name() -> None:
    model = chain(16, 16)
    profile = profile_by(model, structure_of(model), blocks_of(1))
    with pytest.raises(InputError, match="images of 8x8, and this model takes 16x16"):
        Milliseconds(structure_of(model, size=16), profile)
    with pytest.raises(InputError, match="the profile is of made, and this is another backbone"):
        Milliseconds(structure_of(chain(16, 24)), profile)
