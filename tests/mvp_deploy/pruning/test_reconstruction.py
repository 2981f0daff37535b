"""Re-solving layers after a cut: what can be made up for, is; what cannot, is left as it was cut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import Mixed
from torch import Tensor, nn
from torch.nn import functional

import mvp_deploy as mvp
from mvp_deploy.backbones import timm
from mvp_deploy.pruning.biases import fit_biases
from mvp_deploy.pruning.reconstruction import Reconstruction, reconstruct
from mvp_deploy.structure import KeepPlan, Structure, analyze, prune
from mvp_deploy.structure.graph import TracedModel
from mvp_deploy.structure.program import prune_program
from mvp_deploy.tasks import Images
from mvp_deploy.tasks.preprocessing import Preprocessing

HOW = Preprocessing((3, 8, 8), "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def pictures(n: int, *, size: int = 8, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 2, HOW, torch.device("cpu"))


def batch(images: Images) -> Tensor:
    return next(images.batches(len(images)))[0]


def norm(channels: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels)
    for value in (made.weight, made.running_var):
        nn.init.uniform_(value, 0.5, 2)
    for value in (made.bias, made.running_mean):
        nn.init.normal_(value)
    return made


READERS = {  # of eight channels
    "pointwise, a norm follows": lambda: (nn.Conv2d(8, 5, 1, bias=False), norm(5)),
    "3x3 with a bias": lambda: (nn.Conv2d(8, 5, 3, stride=2, padding=1, dilation=2),),
    "depthwise, then pointwise": lambda: (nn.Conv2d(8, 8, 3, groups=8, bias=False), norm(8), nn.Conv2d(8, 5, 1)),
    "in groups": lambda: (nn.Conv2d(8, 6, 3, groups=2),),
    "linear": lambda: (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)),
    "neither bias nor norm": lambda: (nn.Conv2d(8, 5, 3, bias=False),),
}


def redundant(reader: str) -> tuple[nn.Sequential, Structure, KeepPlan]:
    """A net whose channels 1 and 3 of every four are twice 0 and three times 2; the plan keeps 0 and 2."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=1)
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            tensor[1::4], tensor[3::4] = 2 * tensor[0::4], 3 * tensor[2::4]
        readers = READERS[reader]()
        if reader.startswith("depthwise"):  # one filter for each pair
            readers[0].weight[1::4], readers[0].weight[3::4] = readers[0].weight[0::4], readers[0].weight[2::4]
    model = nn.Sequential(first, nn.ReLU(), *readers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.zeros(1, 3, 8, 8))
    structure = analyze(model, torch.zeros(2, 3, 8, 8))
    lost = torch.tensor([False, True, False, True] * 2)
    masks = {}
    for group in structure.groups:
        ids = [structure.unit_ids(group, m) for m in group.members if (m.tensor, m.dim) == ("0.weight", 0)]
        masks[group.name] = np.ones(group.size, bool)
        if ids and not set(ids[0][lost]) & set(ids[0][~lost]):
            masks[group.name][np.unique(ids[0][lost])] = False
    return model, structure, KeepPlan(masks)


def smaller(model: nn.Module, structure: Structure, plan: KeepPlan, *, program: bool) -> nn.Module:
    return prune_program(structure, model, plan, "") if program else prune(structure, model, plan)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).detach().norm() / wanted.detach().norm())


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("program", [False, True])
def test_removed_channels_that_follow_from_others_are_made_up_for(reader: str, program: bool) -> None:
    model, structure, plan = redundant(reader)
    small = smaller(model, structure, plan, program=program)
    assert isinstance(small, TracedModel) == program
    other = batch(pictures(20, seed=1))
    wanted = model(other)
    assert error(small(other), wanted) > 0.05
    before = copy.deepcopy(model.state_dict())
    done = reconstruct(model, structure, plan, small, pictures(60))
    assert error(small(other), wanted) < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert done.images == 60
    reader_of = next(layer for layer in done.layers if layer.before > 1e-3)
    assert reader_of.after < 1e-4  # as exact as float32 sums are


def constant_goes(*readers: nn.Module) -> tuple[nn.Sequential, Structure, KeepPlan]:
    """Four of the eight channels that ``readers`` read are always 2, and go."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        first.weight[1::2], first.bias[1::2] = 0, 2
    model = nn.Sequential(first, nn.ReLU(), *readers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.zeros(1, 3, 8, 8))
    structure = analyze(model, torch.zeros(2, 3, 8, 8))
    [group] = [g for g in structure.groups if any((m.tensor, m.dim) == ("0.weight", 0) for m in g.members)]
    masks = {each.name: np.ones(each.size, bool) for each in structure.groups}
    masks[group.name][1::2] = False
    return model, structure, KeepPlan(masks)


@pytest.mark.parametrize("program", [False, True])
@pytest.mark.parametrize("follows", ["a norm", "nothing"])
def test_a_constant_is_made_up_for_once_however_often_a_model_is_solved(follows: str, program: bool) -> None:
    """A layer without a bias moves the mean of the norm that follows or gets a bias, and not a second time."""
    model, structure, plan = constant_goes(nn.Conv2d(8, 5, 1, bias=False), *([norm(5)] if follows == "a norm" else []))
    small = smaller(model, structure, plan, program=program)
    images, other = pictures(60), batch(pictures(20, seed=1))
    assert error(small(other), model(other)) > 0.05
    for _ in range(3):
        reconstruct(model, structure, plan, small, images)
        assert error(small(other), model(other)) < 1e-4
    assert model[2].bias is None
    assert ("2.bias" in small.state_dict()) == (follows == "nothing")


def random_cut(model: nn.Module, structure: Structure, seed: int = 0) -> KeepPlan:
    rng = np.random.default_rng(seed)
    masks = {}
    for group in structure.groups:
        mask = rng.random(group.size) < 0.6
        mask[0] = True
        masks[group.name] = np.ones(group.size, bool) if group.kind in ("head_dim", "group_dim") else mask
    return KeepPlan(masks)


def cut(
    name: str, *, dtype: torch.dtype = torch.float32, **options: int
) -> tuple[nn.Module, Structure, KeepPlan, nn.Module]:
    torch.manual_seed(0)
    model = timm().create_model(name, num_classes=3, **options).eval().to(dtype)
    structure = analyze(model, torch.zeros(2, 3, 32, 32, dtype=dtype))
    plan = random_cut(model, structure)
    return model, structure, plan, prune(structure, model, plan)


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_efficientnet", {}), ("test_resnet", {}), ("test_vit", {"img_size": 32}), ("test_convnext", {})],
)
def test_no_layer_ends_worse_on_images_left_out(name: str, options: dict[str, int]) -> None:
    model, structure, plan, small = cut(name, **options)
    done = reconstruct(model, structure, plan, small, pictures(60, size=32))
    assert all(layer.after <= layer.before for layer in done.layers)
    assert sum(layer.changed > 0 for layer in done.layers) > len(done.layers) / 2


def test_a_trained_model_is_much_nearer_the_full_one(both) -> None:
    original = both.original
    rng = np.random.default_rng(0)
    masks = {g.name: np.ones(g.size, bool) for g in original.structure.groups}
    for group in original.structure.groups:
        if group.kind in ("channel", "hidden") and group.size > 8:
            masks[group.name][rng.permutation(group.size)[: group.size // 4]] = False
    plan = KeepPlan(masks)
    small, other = original.pruned(plan), batch(both.test)
    wanted, was = original.model(other), small(other)
    reconstruct(original.model, original.structure, plan, small, both.train)
    assert error(small(other), wanted) < 0.6 * error(was, wanted)


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        model, structure, plan, small = cut("test_efficientnet")
        reconstruct(model, structure, plan, small, pictures(50, size=32), most=40, seed=3)
        states.append(small.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def finite(done: Reconstruction, model: nn.Module) -> bool:
    numbers = [(layer.before, layer.after) for layer in done.layers]
    return bool(np.isfinite(numbers).all()) and all(v.isfinite().all() for v in model.state_dict().values())


def test_one_image_changes_nothing_since_none_can_be_left_out() -> None:
    model, structure, plan, small = cut("test_efficientnet")
    before = copy.deepcopy(small.state_dict())
    done = reconstruct(model, structure, plan, small, pictures(1, size=32))
    assert done == Reconstruction((), 1)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize("kind", ["two images", "constant images", "dead channels", "half precision"])
def test_odd_input_gives_a_finite_model(kind: str) -> None:
    half = kind == "half precision"
    model, structure, plan, small = cut("test_efficientnet", dtype=torch.bfloat16 if half else torch.float32)
    images = pictures(2 if kind == "two images" else 20, size=32)
    if kind == "constant images":
        assert isinstance(images.pixels, Tensor)
        images.pixels.fill_(128)
    if kind == "dead channels":
        for net in (model, small):
            for name, value in net.state_dict().items():
                if "bn1" in name and value.ndim:
                    value.fill_(1 if "var" in name else 0)
    if half:
        images = _Half(images.pixels, images.labels, HOW, images.device)
    done = reconstruct(model, structure, plan, small, images)
    assert done.layers
    assert finite(done, small)


class _Half(Images):
    """Images as a half-precision model takes them."""

    def batches(self, *args, **options):  # type: ignore[no-untyped-def]
        return ((x.bfloat16(), y) for x, y in super().batches(*args, **options))


def test_a_failing_model_ends_both_walks_with_its_own_error() -> None:
    model, structure, plan, small = cut("test_resnet")
    small.layer4[0].conv1.weight = nn.Parameter(torch.zeros(3, 3, 3, 3))
    with pytest.raises(RuntimeError):
        reconstruct(model, structure, plan, small, pictures(10, size=32))


class Residual(nn.Module):
    """A stream of eight channels, a branch that gives twice the stream, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)
        with torch.no_grad():
            self.second.weight.copy_(2 * torch.linalg.pinv(self.first.weight[:, :, 0, 0])[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.second(self.first(x)))


def test_what_follows_a_block_that_went_makes_up_for_it() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    images = pictures(32)
    structure = analyze(model, batch(images))
    plan = KeepPlan(KeepPlan.full(structure).masks, frozenset({block.name for block in structure.blocks}))
    small = prune(structure, model, plan)
    with torch.no_grad():
        wanted, before = model(batch(images)), small(batch(images))
        done = reconstruct(model, structure, plan, small, images)
        after = small(batch(images))
    assert [layer.weight for layer in done.layers] == ["head.weight"]  # the stem runs before it, and stays
    assert (before - wanted).norm() > 0.3 * wanted.norm()
    assert (after - wanted).norm() < 1e-3 * wanted.norm()


class Deaf(nn.Conv2d):
    """Has a place for a bias, and computes without it."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight)


class Keyword(nn.Conv2d):
    """Names its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, padding=1, bias=self.bias)


BARE = {"conv2d": nn.Conv2d, "named": Keyword, "not named": Deaf}


@pytest.mark.parametrize(("form", "program"), [("conv2d", False), *((form, True) for form in BARE)])
def test_what_was_solved_loads_again(form: str, program: bool) -> None:
    model, structure, plan = constant_goes(BARE[form](8, 5, 1, bias=False))
    small, again = (smaller(model, structure, plan, program=program) for _ in range(2))
    reconstruct(model, structure, plan, small, pictures(60))
    assert small.get_parameter("2.bias").abs().max() > 0.1
    fit_biases(again, small.state_dict())
    again.load_state_dict(small.state_dict(), strict=True)
    x = batch(pictures(20, seed=1))
    assert torch.equal(again(x), small(x))
    assert torch.equal(copy.deepcopy(small)(x), small(x))


def test_a_program_keeps_its_new_bias_when_it_is_cut_again() -> None:
    model, structure, plan = constant_goes(nn.Conv2d(8, 5, 1, bias=False))
    small = smaller(model, structure, plan, program=True)
    reconstruct(model, structure, plan, small, pictures(60))
    parts = analyze(small, torch.zeros(2, 3, 8, 8))
    again = prune(parts, small, random_cut(small, parts))  # which compares it with the silenced model
    assert 0 < len(again.get_parameter("2.bias")) < 5


def test_a_bias_that_is_worked_out_stays_the_only_one() -> None:
    """As BEiT's, which is put together of three."""

    class Worked(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return functional.conv2d(x, self.weight, self.weight.sum((1, 2, 3)))

    model, structure, plan = constant_goes(Worked(8, 5, 1, bias=False))
    small = smaller(model, structure, plan, program=True)
    reconstruct(model, structure, plan, small, pictures(60))
    assert small.state_dict().keys() == model.state_dict().keys()


def test_a_module_that_computes_without_its_bias_gets_none() -> None:
    model, structure, plan = constant_goes(Deaf(8, 5, 1, bias=False))
    small = prune(structure, model, plan)
    reconstruct(model, structure, plan, small, pictures(60))
    assert small.state_dict().keys() == model.state_dict().keys()


def test_one_image_adds_nothing() -> None:
    model, structure, plan = constant_goes(nn.Conv2d(8, 5, 1, bias=False))
    small = prune(structure, model, plan)
    before = copy.deepcopy(small.state_dict())
    reconstruct(model, structure, plan, small, pictures(1))
    assert small.state_dict().keys() == before.keys()


@pytest.mark.parametrize("program", [False, True])
@pytest.mark.parametrize("name", ["weight.bias", "5.bias", "1.bias", "nothing.bias", "2.weight", ".bias"])
def test_names_that_are_no_new_bias_change_nothing(name: str, program: bool) -> None:
    model, structure, plan = constant_goes(nn.Conv2d(8, 5, 1, bias=False))
    small = smaller(model, structure, plan, program=program)
    before = small.state_dict().keys()
    fit_biases(small, {name: torch.zeros(5)})
    assert small.state_dict().keys() == before


def a_program() -> nn.Module:
    """Becomes one when it is cut; a layer that reads its heads has neither bias nor norm."""
    model = Mixed().eval()
    model.proj = nn.Linear(16, 16, bias=False)
    return model


@pytest.mark.parametrize(
    ("make", "bias"), [(lambda: constant_goes(nn.Conv2d(8, 5, 1, bias=False))[0], "2.bias"), (a_program, "proj.bias")]
)
def test_a_module_of_ones_own_comes_back_with_its_new_bias(
    make: Callable[[], nn.Module], bias: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, images = make(), pictures(60)
    x = batch(images)
    result = mvp.prune(model, (x, images.labels), macs=0.5)
    assert isinstance(result.model, TracedModel) == (make is a_program)
    assert result.model.get_parameter(bias).abs().max() > 0
    assert result.report.params == sum(parameter.numel() for parameter in result.model.parameters())
    mvp.save(result, tmp_path / "small.safetensors")
    again = mvp.load(tmp_path / "small.safetensors", copy.deepcopy(model))
    assert torch.equal(again(x), result.model.eval()(x))


def test_a_program_with_a_new_bias_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = pictures(60)
    data = batch(images), images.labels
    result = mvp.prune(a_program(), data, macs=0.5)
    bundle = mvp.export(result, tmp_path / "bundle", data=data)
    assert bundle.models[-1].params == result.report.params
    with bundle.session(precision="fp32") as session, torch.no_grad():
        got = torch.from_numpy(session.logits(list(data[0].numpy())))
        assert error(got, result.model.eval()(data[0])) < 1e-5
