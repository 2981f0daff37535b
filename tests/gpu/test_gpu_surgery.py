"""Models that lie on a GPU are cut there, run there and move between devices; float32 means float32."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from recorded import Mixed
from torch import Tensor, nn

from mvp_deploy.backbones import timm
from mvp_deploy.base.devices import full_float32
from mvp_deploy.structure import KeepPlan, Structure, analyze, prune, silence
from mvp_deploy.structure.exactness import LIMITS
from mvp_deploy.structure.graph import TracedModel

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda", 0)
MODELS = {
    "resnet18": lambda: timm().create_model("resnet18", num_classes=5),
    "test_resnet": lambda: timm().create_model("test_resnet", num_classes=5),
    "test_vit": lambda: timm().create_model("test_vit", num_classes=5, img_size=64),
    "a recorded program": Mixed,
}


def relative(got: Tensor, wanted: Tensor) -> float:
    got, wanted = got.double().cpu(), wanted.double().cpu()
    return float((got - wanted).abs().max() / wanted.abs().max())


def thinned(structure: Structure) -> KeepPlan:
    """Of every group three units of four, drawn at random."""
    random = np.random.default_rng(0)
    return KeepPlan(
        {
            g.name: np.isin(np.arange(g.size), random.permutation(g.size)[: -(-3 * g.size // 4)])
            for g in structure.groups
        }
    )


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = MODELS[request.param]().eval()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):  # in timm's blocks the last one begins at nought
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return made.to(DEVICE)


@pytest.fixture
def x(model: nn.Module) -> Tensor:
    edge = 8 if isinstance(model, Mixed) else 64
    return torch.randn(4, 3, edge, edge, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_model_on_a_gpu_is_cut_there_exactly(model: nn.Module, x: Tensor) -> None:
    structure = analyze(model, x[:2])
    plan = thinned(structure)
    small = prune(structure, model, plan)  # with the exactness check
    assert isinstance(small, TracedModel) == isinstance(model, Mixed)
    assert {t.device for t in small.state_dict().values()} == {DEVICE}
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    with full_float32():
        got, wanted = small(x.to(DEVICE)), silence(structure, model, plan)(x.to(DEVICE))
    assert got.device == DEVICE
    assert relative(got, wanted) < LIMITS[torch.float32]
    assert relative(got, copy.deepcopy(small).cpu().double()(x.double())) < 1e-4


@torch.no_grad()
def test_a_cut_model_moves_to_the_cpu_and_back(model: nn.Module, x: Tensor) -> None:
    structure = analyze(model, x[:2])
    plan = thinned(structure)
    small = prune(structure, model, plan, check=False)
    made_there = prune(structure, copy.deepcopy(model).cpu(), plan)
    with full_float32():
        first = small(x.to(DEVICE))
        small.to("cpu")
        state = made_there.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
        assert torch.equal(small(x), made_there(x))
        assert relative(first, small(x)) < 1e-4
        small.to(DEVICE)
        assert relative(small(x.to(DEVICE)), first) < 1e-5
        assert relative(made_there.to(DEVICE)(x.to(DEVICE)), first) < 1e-5


def test_a_cut_model_trains_on_the_gpu(model: nn.Module, x: Tensor) -> None:
    structure = analyze(model, x[:2])
    small = prune(structure, model, thinned(structure), check=False).train()
    small(x.to(DEVICE)).square().mean().backward()
    gradients = {name: p.grad for name, p in small.named_parameters() if not name.startswith("unused")}
    assert all(g is not None and g.device == DEVICE and g.isfinite().all() for g in gradients.values())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["convolution", "product"])
def test_tf32_is_rounder_and_stays_out_of_full_float32(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.get_device_capability(DEVICE) < (8, 0):
        pytest.skip("TF32 came with Ampere (compute capability 8.0)")
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32")
    monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    generator = torch.Generator().manual_seed(0)
    shapes = {"convolution": ((8, 256, 32, 32), (256, 256, 3, 3)), "product": ((1024, 1024), (1024, 1024))}[kind]
    x, weight = (torch.randn(shape, generator=generator) for shape in shapes)
    compute = nn.functional.conv2d if kind == "convolution" else torch.mm
    wanted = compute(x.to(DEVICE).double(), weight.to(DEVICE).double())
    rounded = relative(compute(x.to(DEVICE), weight.to(DEVICE)), wanted)
    with full_float32():
        full = relative(compute(x.to(DEVICE), weight.to(DEVICE)), wanted)
    print(f"{kind}: float32 {full:.1e}, TF32 {rounded:.1e} of the largest value")
    assert full < 3e-5 < rounded < 1e-2
