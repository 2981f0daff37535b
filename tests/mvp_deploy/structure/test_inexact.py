"""A bank that allows inexact removal: its backbone says so, and the error is measured instead of refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reference import random_plan, randomise

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone
from mvp_deploy.base.errors import MvpError
from mvp_deploy.pruning.original import TOLERANCE, Original, check_exact


class Batches:
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def batches(self, size: int) -> list[tuple[torch.Tensor, None]]:
        return [(self.images[:size], None)]


@pytest.mark.parametrize("allowed", [False, True])
def test_the_error_of_inexact_removal_is_measured(allowed: bool) -> None:
    backbone, state = backbones.create("ecaresnet26t", image_size=64)
    backbone = replace(backbone, allow_inexact=allowed)
    original = Original.create(backbone, state, 3)
    randomise(original.model)
    plan = random_plan(original.structure, seed=0)
    error = check_exact(original, plan, original.pruned(plan), Batches(torch.randn(2, 3, 64, 64)))  # type: ignore[arg-type]
    assert (error > TOLERANCE) is allowed


def test_allowing_inexact_removal_excuses_no_other_mistake() -> None:
    backbone, state = backbones.create("ecaresnet26t", image_size=64)
    original = Original.create(replace(backbone, allow_inexact=True), state, 3)
    randomise(original.model)
    plan = random_plan(original.structure, seed=0)
    small = original.pruned(plan)
    small.layer3[1].drop_path = torch.nn.Softplus()
    with pytest.raises(MvpError, match="differs from the silenced"):
        check_exact(original, plan, small, Batches(torch.randn(2, 3, 64, 64)))  # type: ignore[arg-type]


def test_the_backbone_keeps_what_was_allowed() -> None:
    backbone, _ = backbones.create("resnet18", image_size=32)
    allowed = replace(backbone, allow_inexact=True)
    assert Backbone.from_json(allowed.to_json()) == allowed
    assert allowed.fingerprint != backbone.fingerprint
    without = {key: value for key, value in backbone.to_json().items() if key != "allow_inexact"}
    assert Backbone.from_json(without) == backbone
