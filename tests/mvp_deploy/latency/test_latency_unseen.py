"""A profile says how well it predicts models that it has not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes.profiles import blocks_of, chain, profile_by, structure_of, wrong

from mvp_deploy.cli._common import Console
from mvp_deploy.latency import files
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.model import held_out
from mvp_deploy.latency.unseen import doubts, unseen


@pytest.fixture(scope="module")
def profile() -> Profile:
    model = chain(64, 48, 80)
    return profile_by(model, structure_of(model), blocks_of(1))


def test_a_machine_that_follows_the_formula_is_predicted_exactly(profile: Profile) -> None:
    found = unseen(profile)
    assert found is not None
    assert found.models == len(profile.runs) - 1
    assert found.worst < 0.01
    assert doubts(profile) == []


def test_errors_are_those_of_models_left_out_of_the_fit_and_large_ones_are_a_warning(profile: Profile, capsys) -> None:
    bad = wrong(profile, 1.3)
    found, errors = unseen(bad), [abs(predicted / ms - 1) for ms, predicted in held_out(bad)]
    assert found is not None
    assert (found.median, found.worst) == pytest.approx((np.median(errors), max(errors)))
    assert found.worst > 0.1
    files.say_conditions(bad, Console(quiet=True))
    said = capsys.readouterr().err
    assert f"models that it has not seen {found.median:.1%} off in the median, {found.worst:.1%} at worst" in said
    assert "may miss its time by as much" in said


def test_models_off_the_alignment_are_not_judged(profile: Profile) -> None:
    """Their widths are never planned."""
    off = [any(rows % 4 for rows, _ in run.shapes) for run in profile.runs]
    slow = [1.0 + 0.6 * each for each in off]
    kernels = tuple(
        replace(
            kernel,
            samples=tuple(replace(one, ms=one.ms * by) for one, by in zip(kernel.samples, slow, strict=True)),
        )
        for kernel in profile.kernels
    )
    runs = tuple(replace(run, ms=run.ms * by) for run, by in zip(profile.runs, slow, strict=True))
    found = unseen(replace(profile, kernels=kernels, runs=runs))
    assert found is not None
    assert found.models < len(profile.runs) - 1
    assert found.worst < 0.1


def test_of_a_few_models_nothing_is_said(profile: Profile) -> None:
    kernels = tuple(replace(kernel, samples=kernel.samples[:4]) for kernel in profile.kernels)
    few = replace(profile, kernels=kernels, runs=profile.runs[:4])
    assert unseen(few) is None
    assert doubts(few) == []
