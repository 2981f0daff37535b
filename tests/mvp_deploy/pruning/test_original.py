from __future__ import annotations

import copy

import pytest
import torch

from mvp_deploy.bank.pool import part
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.pruning.budget import Budget, counts_for, keep_best, uniform
from mvp_deploy.pruning.original import check_exact, suited
from mvp_deploy.structure import gather
from mvp_deploy.training import Training


def some_plan(original, fraction: float = 0.5, seed: int = 0):
    structure = original.structure
    return keep_best(structure, {}, counts_for(structure, Budget(fraction, "units"), uniform(structure)), seed=seed)


def test_a_pruned_model_is_exact_and_its_weights_come_from_the_original(both) -> None:
    original, plan = both.original, some_plan(both.original)
    model = original.pruned(plan)
    assert check_exact(original, plan, model, both.test) < 1e-5
    wide = original.widened(plan, model.state_dict())
    assert all(torch.equal(value, wide[name]) for name, value in original.model.state_dict().items())


def test_a_model_that_computes_something_else_is_not_let_through(both) -> None:
    original, plan = both.original, some_plan(both.original)
    model = original.pruned(plan)
    model.register_forward_hook(lambda module, args, output: 1.001 * output)  # as a wrong attention scale would
    with pytest.raises(MvpError, match="differs from the silenced original") as caught:
        check_exact(original, plan, model, both.test)
    assert caught.value.code == ExitCode.PARITY


def test_weights_widened_come_back(both) -> None:
    original, plan = both.original, some_plan(both.original)
    state = {
        name: torch.randn_like(v) if v.is_floating_point() else v
        for name, v in original.pruned(plan).state_dict().items()
    }
    back = gather(original.structure, original.widened(plan, state), plan)
    assert all(torch.equal(value, back[name]) for name, value in state.items())


def test_a_head_is_solved_once_for_the_same_images_and_never_in_the_original(both) -> None:
    before = copy.deepcopy(both.original.model.state_dict())
    headed = both.original.headed(both.train)
    assert headed.solved
    assert both.original.headed(both.train) is headed
    other = both.original.headed(part(both.train, 50, 0))
    weight = f"{both.original.classifier[0]}.weight"
    assert not torch.equal(headed.model.get_parameter(weight), other.model.get_parameter(weight))
    assert all(torch.equal(value, before[name]) for name, value in both.original.model.state_dict().items())


def test_another_number_of_classes_changes_the_head_alone(cnn) -> None:
    other = cnn.original.with_classes(7)
    assert other.model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert [(g.name, g.size) for g in other.structure.groups] == [
        (g.name, g.size) for g in cnn.original.structure.groups
    ]
    own = other.model.state_dict()
    assert all(torch.equal(v, own[n]) for n, v in cnn.original.model.state_dict().items() if n not in other.head)
    assert other.head == {"fc.weight", "fc.bias"}
    assert cnn.original.with_classes(3) is cnn.original


def test_transformers_are_tuned_with_adamw(cnn, vit) -> None:
    assert suited(vit.backbone).optimizer == "adamw"
    assert suited(cnn.backbone).optimizer == "sgd"
    assert suited(vit.backbone, Training(optimizer="sgd")).optimizer == "sgd"
