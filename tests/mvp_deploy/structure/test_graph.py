"""The graph form is a module like any other: it trains, switches, saves, compiles, survives other number formats."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from recorded import Mixed
from reference import random_plan, randomise, relative_error, silenced
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from mvp_deploy.base.errors import MvpError
from mvp_deploy.structure import Structure, analyze, prune, silence
from mvp_deploy.structure.graph import TracedModel

SEED = 0
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return randomise(Mixed().eval())


@pytest.fixture
def structure(model: nn.Module) -> Structure:
    return analyze(model, X[:1])


@pytest.fixture
def small(model: nn.Module, structure: Structure) -> TracedModel:
    out = prune(structure, model, random_plan(structure, seed=SEED))
    assert isinstance(out, TracedModel)
    return out


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def test_it_has_the_full_model_s_names_and_says_why(model: nn.Module, small: TracedModel) -> None:
    assert small.state_dict().keys() == model.state_dict().keys()
    assert [n for n, _ in small.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert "heads would need two values" in small.why


@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_the_silenced_model_at_any_batch_size(
    model: nn.Module, structure: Structure, small: TracedModel, batch: int
) -> None:
    masks = structure.tensor_masks(random_plan(structure, seed=SEED))
    assert relative_error(outputs(small, X[:batch]), outputs(silenced(model, masks, X), X[:batch])) < 1e-5


def test_training_drops_out_and_moves_statistics_and_eval_does_not(small: TracedModel) -> None:
    wanted = outputs(small, X)
    small.train()
    before = small.state_dict()["embed.1.running_mean"].clone()
    assert not torch.equal(outputs(small, X), outputs(small, X))
    assert not torch.equal(small.state_dict()["embed.1.running_mean"], before)
    small.state_dict()["embed.1.running_mean"].copy_(before)
    assert torch.equal(outputs(small.eval(), X), outputs(small, X))
    assert small.training is False
    assert relative_error(outputs(small, X), wanted) < 0.5  # the running variance moved as well


def test_every_used_weight_gets_a_gradient(small: TracedModel) -> None:
    small.train()(X).square().mean().backward()
    missing = {name for name, p in small.named_parameters() if p.grad is None}
    assert missing == {"unused.weight", "unused.bias"}


def test_a_model_in_training_gives_one_in_training(model: nn.Module, structure: Structure) -> None:
    assert prune(structure, model.train(), random_plan(structure, seed=SEED)).training


def test_weights_reload_and_copies_are_their_own(
    model: nn.Module, structure: Structure, small: TracedModel, tmp_path: Path
) -> None:
    save_model(small, str(tmp_path / "small.safetensors"))
    fresh = prune(structure, copy.deepcopy(model).apply(_forget), random_plan(structure, seed=SEED))
    load_model(fresh, str(tmp_path / "small.safetensors"))
    assert torch.equal(outputs(fresh, X), outputs(small, X))
    twin = copy.deepcopy(small)
    twin.get_parameter("head.weight").data.zero_()
    assert torch.equal(outputs(fresh, X), outputs(small, X))


def _forget(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data.zero_()


def test_compiled_it_computes_the_same(small: TracedModel) -> None:
    compiled = torch.compile(small, backend="aot_eager")
    assert relative_error(outputs(compiled, X), outputs(small, X)) < 1e-5


def test_it_survives_bfloat16_and_channels_last(small: TracedModel) -> None:
    wanted = outputs(small, X)
    small.to(memory_format=torch.channels_last)
    assert relative_error(outputs(small, X.to(memory_format=torch.channels_last)), wanted) < 1e-5
    small.to(torch.bfloat16)
    assert relative_error(outputs(small, X.bfloat16()).float(), wanted) < 0.1
    assert relative_error(outputs(small.float(), X), wanted) < 0.05


def test_it_exports_for_any_batch_size(small: TracedModel) -> None:
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(small, (X,), dynamic_shapes=dynamic, strict=False).module()
    assert relative_error(outputs(program, X[:3]), outputs(small, X[:3])) < 1e-5


def test_a_forward_that_fixes_the_batch_size_is_refused_by_name() -> None:
    class Fixed(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.ones(len(x)).cumsum(0).reshape(-1, 1)

    model = Fixed().eval()
    structure = analyze(model, X)
    with pytest.raises(Exception, match="any batch size"):
        prune(structure, model, random_plan(structure, seed=0))


def test_it_moves_to_another_device(small: TracedModel) -> None:
    moved = copy.deepcopy(small).to("meta")
    assert moved(X.to("meta")).is_meta
    assert torch.equal(outputs(small, X), outputs(copy.deepcopy(small), X))


def test_another_image_size_is_followed(model: nn.Module, structure: Structure, small: TracedModel) -> None:
    images = torch.randn(2, 3, 8, 10)
    wanted = silence(structure, model, random_plan(structure, seed=SEED))(images)
    assert relative_error(outputs(small, images), wanted) < 1e-5


def test_another_image_size_is_refused_where_one_is_written_into_the_program_as_a_number() -> None:
    class Scaled(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * (1.0 / x.shape[2]))

    model = randomise(Scaled().eval())
    structure = analyze(model, X[:1])
    small = prune(structure, model, random_plan(structure, seed=SEED))
    assert small(X).shape == (4, 5)
    with pytest.raises(MvpError, match=r"recorded program takes inputs of shape .* 6, 6"):
        small(torch.randn(2, 3, 8, 8))


def test_a_program_that_no_size_is_written_into_takes_any_image() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head((x * (1.0 / x.shape[1])).mean((2, 3)))

    model = randomise(Scaled().eval())
    structure = analyze(model, X[:1])
    plan = random_plan(structure, seed=SEED)
    small = prune(structure, model, plan)
    assert isinstance(small, TracedModel)
    images = torch.randn(2, 3, 10, 14)
    assert relative_error(outputs(small, images), silence(structure, model, plan)(images)) < 1e-5
