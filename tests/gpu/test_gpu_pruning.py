"""What decides and mends on a GPU gives what it gives on the CPU."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mvp_deploy as mvp
from mvp_deploy import backbones
from mvp_deploy.bank.signature import sign
from mvp_deploy.base.devices import full_float32
from mvp_deploy.pruning import moments, reconstruction
from mvp_deploy.pruning.head import recalibrate, separability, solve_head
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.linear import linear_layers
from mvp_deploy.pruning.moments import CrossMoments
from mvp_deploy.pruning.original import Original
from mvp_deploy.structure import KeepPlan
from mvp_deploy.tasks import Images, load_task, prepare
from mvp_deploy.training import TrainConfig, fit

pytestmark = pytest.mark.gpu
DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")
BOTH = (CPU, DEVICE)
CLASSES = 3


@pytest.fixture(scope="module")
def task() -> mvp.Task:
    return load_task("digits#0,1,4")


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def originals(request: pytest.FixtureRequest, task: mvp.Task) -> tuple[Original, Original]:
    """One trained model on the CPU and on the GPU."""
    backbone, state = backbones.create(request.param, image_size=32)
    model = backbones.build(backbone, state, CLASSES)
    config = TrainConfig(steps=30, batch_size=32, optimizer="adamw", lr=2e-3)
    fit(model, prepare(task.train, backbone.preprocessing), config)
    trained = {name: value for name, value in model.state_dict().items() if name in state}
    there, here = (Original.create(backbone, trained, CLASSES, device=device) for device in BOTH)
    return there, here


@pytest.fixture(scope="module")
def images(originals: tuple[Original, Original], task: mvp.Task) -> tuple[Images, Images]:
    there, here = (prepare(task.train, originals[0].backbone.preprocessing, device) for device in BOTH)
    return there, here


def close(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return float((got.double().cpu() - wanted.double().cpu()).abs().max()) <= tolerance * float(wanted.abs().max())


def test_moments_are_the_cpus(originals: tuple[Original, Original], images: tuple[Images, Images]) -> None:
    found = []
    for original, some in zip(originals, images, strict=True):
        layers = linear_layers(original.model, original.structure.example)
        found.append(moments.collect(original.model, layers, some.batches(32), len(some)))
    assert found[0].keys() == found[1].keys()
    for name, there in found[0].items():
        here = found[1][name]
        assert here.products.device == DEVICE
        assert here.images == there.images == len(images[0])
        assert close(here.products, there.products, 1e-4), name


def test_least_squares_give_the_cpus_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, start = (torch.randn(2, *shape, generator=generator) for shape in ((200, 9), (200, 4), (4, 9)))
    there, here = (CrossMoments.of(moments.with_constant(x[..., :8].to(d)), y.to(d)) for d in BOTH)
    wanted, got = (next(m.ridge([1e-3], start.double().to(m.inputs.device))) for m in (there, here))
    assert got.device == DEVICE
    assert close(got, wanted, 1e-5)
    assert close(here.error(got), there.error(wanted), 1e-5)


@pytest.mark.parametrize("criterion", ["obs", "taylor", "activation", "magnitude"])
def test_units_are_worth_what_they_are_on_the_cpu(
    criterion: str, originals: tuple[Original, Original], images: tuple[Images, Images]
) -> None:
    there, here = (
        score(criterion, original.structure, original.model, original.full, some, batches=2)
        for original, some in zip(originals, images, strict=True)
    )
    assert there.keys() == here.keys()
    for name, wanted in there.items():
        np.testing.assert_allclose(here[name], wanted, rtol=0, atol=0.02 * max(wanted.max(), 1e-12), err_msg=name)


def test_what_the_rest_can_say_is_made_up_for_on_either_device(images: tuple[Images, Images]) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 16, 3, padding=1)
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            tensor[1::2] = 2 * tensor[0::2]  # every second channel follows from the one before it
    net = nn.Sequential(
        first, nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    ).eval()
    net(torch.zeros(1, 3, 32, 32))
    plan = KeepPlan(
        {g.name: np.arange(g.size) % 2 == 0 for g in mvp.analyze(net, torch.zeros(2, 3, 32, 32)).groups[:1]}
    )
    for some in images:
        full = copy.deepcopy(net).to(some.device)
        structure = mvp.analyze(full, torch.zeros(2, 3, 32, 32))
        whole = {g.name: np.ones(g.size, bool) for g in structure.groups}
        wide = KeepPlan(whole | dict(plan.masks))
        small = mvp.cut(full, wide, structure)
        x = next(iter(some.batches(64)))[0]
        with torch.no_grad(), full_float32():
            wanted = full(x)
            assert not close(small(x), wanted, 0.02)
            done = reconstruction.reconstruct(full, structure, wide, small, some)
            assert {p.device for p in small.parameters()} == {some.device}
            assert close(small(x), wanted, 1e-3)
        assert max(layer.after for layer in done.layers) < 1e-4 < max(layer.before for layer in done.layers)


def test_a_cut_backbone_is_mended_as_well_as_on_the_cpu(
    originals: tuple[Original, Original], images: tuple[Images, Images]
) -> None:
    plan = KeepPlan(
        {
            g.name: np.ones(g.size, bool) if g.kind == "head_dim" else np.arange(g.size) % 4 > 0
            for g in originals[0].structure.groups
        }
    )
    errors = []
    for original, some in zip(originals, images, strict=True):
        small = original.pruned(plan)
        done = reconstruction.reconstruct(original.model, original.structure, plan, small, some)
        errors.append(np.array([(layer.before, layer.after) for layer in done.layers]))
    np.testing.assert_allclose(errors[1], errors[0], atol=0.01)
    assert (errors[1][:, 1] < errors[1][:, 0]).any()


def test_a_head_in_closed_form_is_the_cpus(originals: tuple[Original, Original], images: tuple[Images, Images]) -> None:
    told, answers = [], []
    for original, some in zip(originals, images, strict=True):
        model = original.copy()
        assert solve_head(model, original.classifier, some)
        told.append(separability(model, original.classifier, some))
        with torch.no_grad():
            answers.append(torch.cat([model(x).argmax(1).cpu() for x, _ in some.batches(64)]))
        assert float((answers[-1] == some.labels.cpu()).double().mean()) > 0.9
    assert told[1] == pytest.approx(told[0], abs=1e-3)
    assert float((answers[0] == answers[1]).double().mean()) > 0.98


def test_norms_recomputed_on_the_gpu_are_the_cpus(
    originals: tuple[Original, Original], images: tuple[Images, Images]
) -> None:
    states = []
    for original, some in zip(originals, images, strict=True):
        model = original.copy()
        if not recalibrate(model, some, batches=2):
            pytest.skip("this model has no batch norms")
        states.append(model.state_dict())
    for name, wanted in states[0].items():
        assert close(states[1][name], wanted, 1e-3), name


def test_a_signature_does_not_depend_on_the_device(
    originals: tuple[Original, Original], images: tuple[Images, Images]
) -> None:
    there, here = (
        sign(original.backbone, _body(original), some, CLASSES, some.device)
        for original, some in zip(originals, images, strict=True)
    )
    np.testing.assert_array_equal(here.count, there.count)
    np.testing.assert_allclose(here.mean, there.mean, rtol=0, atol=1e-4 * np.abs(there.mean).max())


def _body(original: Original) -> dict[str, Tensor]:
    return {name: value for name, value in original.model.state_dict().items() if name not in original.head}


def test_batches_that_do_not_fit_in_memory_are_those_that_do(
    task: mvp.Task, originals: tuple[Original, Original]
) -> None:
    how = originals[0].backbone.preprocessing
    kept, streamed = (prepare(task.train, how, DEVICE, memory_limit=limit) for limit in (1 << 30, 0))
    assert isinstance(kept.pixels, Tensor)
    assert not isinstance(streamed.pixels, Tensor)
    for epoch in range(2):
        orders = [torch.Generator().manual_seed(epoch) for _ in range(2)]
        pairs = zip(
            kept.batches(16, shuffle=True, augment=True, generator=orders[0]),
            streamed.batches(16, shuffle=True, augment=True, generator=orders[1]),
            strict=True,
        )
        for (x, y), (wanted, labels) in pairs:
            assert x.device == wanted.device == DEVICE
            assert torch.equal(x, wanted)
            assert torch.equal(y, labels)


@pytest.mark.parametrize("reconstruct", [False, True])
def test_a_module_on_the_gpu_is_pruned_and_left_there(reconstruct: bool, task: mvp.Task) -> None:
    net = backbones.timm().create_model("test_resnet", num_classes=CLASSES).eval().to(DEVICE)
    before = copy.deepcopy(net.state_dict())
    how = backbones.create("test_resnet", image_size=32)[0].preprocessing
    x, y = next(iter(prepare(task.train, how).batches(96)))
    results = [
        mvp.prune(model, (x, y), macs=0.5, criterion="magnitude", reconstruct=reconstruct, device=place)
        for model, place in ((net, DEVICE), (copy.deepcopy(net).cpu(), CPU))
    ]
    assert {p.device for p in results[0].model.parameters()} == {DEVICE}
    assert {p.device for p in net.parameters()} == {DEVICE}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert results[0].report.macs == results[1].report.macs <= 0.5 * results[1].report.full_macs
    for name, mask in results[1].plan.masks.items():
        np.testing.assert_array_equal(results[0].plan.masks[name], mask)
    if not reconstruct:
        with torch.no_grad():
            assert close(results[0].model(x.to(DEVICE)), results[1].model(x), 5e-2 if DEVICE.type == "cuda" else 0)


def test_pruning_gives_its_memory_back(task: mvp.Task) -> None:
    """cuBLAS keeps a workspace for each thread that multiplied, so these are cleared before each look."""

    def held() -> int:
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        return torch.cuda.memory_allocated(DEVICE)

    images = prepare(task.train, backbones.create("resnet18", image_size=64)[0].preprocessing, DEVICE)
    net = backbones.timm().create_model("resnet18", num_classes=CLASSES).eval().to(DEVICE)
    before = held()
    torch.cuda.reset_peak_memory_stats(DEVICE)
    result = mvp.prune(net, images, macs=0.5, criterion="taylor", device=DEVICE)
    peak = torch.cuda.max_memory_allocated(DEVICE) - before
    print(f"resnet18 at 64 pixels: {peak / 2**20:.0f} MiB at most beside the model and its images")
    assert {p.device for p in result.model.parameters()} == {DEVICE}
    assert peak < 6 << 30  # passes that stand still may hold 1 GiB; moments and workspaces come on top
    del result
    assert held() - before < 64 << 20
