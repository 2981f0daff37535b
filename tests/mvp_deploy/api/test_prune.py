"""`import mvp_deploy as mvp`: a stranger prunes their own module, saves it, trains it on, loads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mvp_deploy as mvp
from mvp_deploy import runs
from mvp_deploy.cli import main
from mvp_deploy.pruning.tuning import judged
from mvp_deploy.tasks.own import collect


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3)
        self.norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.head(self.second(x).relu().mean((2, 3)))


@pytest.fixture
def pairs() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(48, 3, 12, 12, generator=generator), torch.arange(48) % 4)


def test_the_package_offers_its_names_and_imports_nothing_for_them() -> None:
    script = "import mvp_deploy, sys; print(sorted({'torch', 'timm', 'numpy'} & sys.modules.keys()), dir(mvp_deploy))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith("[] [")
    for name in mvp.__all__:
        assert name in said
        assert getattr(mvp, name) is not None


@pytest.mark.parametrize("form", ["loader", "dataset", "tensors"])
def test_ones_own_module_is_pruned_from_data_in_any_form(form: str, pairs: TensorDataset) -> None:
    data = {"loader": DataLoader(pairs, 16), "dataset": pairs, "tensors": pairs.tensors}[form]
    net = Net().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = mvp.prune(net, data, macs=0.5, validation=pairs)
    assert isinstance(result.model, Net)
    assert result.report.macs <= 0.5 * result.report.full_macs
    assert result.report.accuracy is not None
    assert "of the MACs" in str(result.report)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_went_is_made_up_for(pairs: TensorDataset) -> None:
    x, _ = pairs.tensors
    net = Net().eval()
    with torch.no_grad():
        wanted = net(x)
        cut, made_up = (mvp.prune(net, pairs, macs=0.6, reconstruct=yes).model(x) for yes in (False, True))
    assert (made_up - wanted).square().mean() < 0.5 * (cut - wanted).square().mean()


def test_images_without_labels_are_judged_by_the_model_itself(pairs: TensorDataset) -> None:
    result = mvp.prune(Net(), pairs.tensors[0])  # no budget: half of the MACs
    assert result.report.macs <= 0.5 * result.report.full_macs


def test_saved_after_training_on_it_comes_back_to_the_bit(tmp_path: Path, pairs: TensorDataset) -> None:
    result = mvp.prune(Net(), pairs, keep=0.5)
    x, y = pairs.tensors
    optimizer = torch.optim.SGD(result.model.parameters(), 0.1)
    nn.functional.cross_entropy(result.model.train()(x), y).backward()
    optimizer.step()
    mvp.save(result, tmp_path / "small.safetensors")
    loaded = mvp.load(tmp_path / "small.safetensors", Net())
    assert torch.equal(loaded(x), result.model.eval()(x))


def test_saving_and_re_solving_leave_a_training_as_it_is(tmp_path: Path, pairs: TensorDataset) -> None:
    result = mvp.prune(Net(), pairs, keep=0.5)
    result.model.train()
    mvp.save(result, tmp_path / "small.safetensors")
    assert result.model.training
    assert result.model.norm.training
    full = Net().train()
    parts = mvp.analyze(full, pairs.tensors[0][:1])
    plan = mvp.KeepPlan({group.name: np.arange(group.size) % 2 == 0 for group in parts.groups})
    mvp.reconstruct(mvp.cut(full, plan, parts), full, plan, pairs, parts)
    assert full.training
    assert full.norm.training


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_in_another_precision_is_pruned_in_float32(
    kind: torch.dtype, tmp_path: Path, pairs: TensorDataset
) -> None:
    net = Net().to(kind)
    result = mvp.prune(net, pairs, macs=0.5)
    small = mvp.load(mvp.save(result, tmp_path / "small.safetensors"), Net())
    assert {value.dtype for value in small.parameters()} == {torch.float32}
    assert bool(small(pairs.tensors[0]).isfinite().all())
    assert {value.dtype for value in net.parameters()} == {kind}


@pytest.mark.parametrize("name", ["second.weight", "norm.running_mean"])
def test_a_module_with_nan_in_it_is_refused_by_name(name: str, pairs: TensorDataset) -> None:
    net = Net()
    net.state_dict()[name].view(-1)[0] = torch.nan
    with pytest.raises(mvp.InputError, match=name):
        mvp.prune(net, pairs)


def test_images_that_say_little_are_a_warning() -> None:
    from mvp_deploy.backbones import timm

    model = timm().create_model("test_resnet", num_classes=3).eval()
    with pytest.warns(UserWarning, match="are they blank"):
        mvp.prune(model, (torch.ones(32, 3, 32, 32), torch.arange(32) % 3), recipe="compensated")


def test_validation_is_of_the_model_s_outputs(pairs: TensorDataset) -> None:
    x, y = pairs.tensors
    with pytest.raises(mvp.InputError, match="labels up to 5"):
        mvp.prune(Net(), pairs, validation=(x, y + 2))
    with pytest.raises(mvp.StructureError, match="fails on the data's images"):
        mvp.prune(Net(), pairs, validation=(x[:, :1], y))
    assert mvp.prune(Net(), pairs, validation=x).report.full_accuracy == 1  # its own answers are the labels
    with pytest.raises(mvp.InputError, match="has the classes 1, 0, and the model is for 0, 1"):
        mvp.prune("test_resnet", "digits#0,1", image_size=32, validation="digits#1,0")


def test_a_run_that_was_killed_as_its_files_took_their_places_is_loaded(run: mvp.Result, tmp_path: Path) -> None:
    assert run.folder is not None
    shutil.copytree(run.folder, tmp_path / "run" / ".work" / ("0" * 16))
    state = mvp.load(tmp_path / "run").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in run.model.state_dict().items())


def test_a_module_of_ones_own_needs_its_class_to_be_loaded(tmp_path: Path, pairs: TensorDataset) -> None:
    mvp.save(mvp.prune(Net(), pairs, keep=0.5), tmp_path / "small.safetensors")
    with pytest.raises(mvp.MvpError, match="pass the full-size module"):
        mvp.load(tmp_path / "small.safetensors")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_a_timm_model_is_loaded_without_it_and_says_its_own_sizes(name: str, tmp_path: Path) -> None:
    from mvp_deploy.backbones import timm

    model = timm().create_model(name, num_classes=3).eval()
    size = model.default_cfg["input_size"]
    x, y = torch.randn(24, *size), torch.arange(24) % 3
    result = mvp.prune(model, (x, y), keep=0.5)
    small = mvp.load(mvp.save(result, tmp_path / "small.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(small(x), result.model(x), rtol=1e-5, atol=1e-5)
        features = small.forward_features(x)
        assert small.num_features in features.shape
        assert small.head_hidden_size == small.forward_head(features, pre_logits=True).shape[1]
        small.reset_classifier(7)
        assert small(x).shape == (24, 7)


@pytest.mark.parametrize("name", ["test_byobnet", "test_convnext", "mobilenetv3_small_050", "regnety_002"])
def test_what_a_cut_timm_model_says_of_itself_is_true(name: str) -> None:
    from mvp_deploy.backbones import timm

    full = timm().create_model(name, num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    parts = mvp.analyze(full, x)
    plan = mvp.KeepPlan({group.name: np.arange(group.size) % 4 != 0 for group in parts.groups})
    small = mvp.cut(full, plan, parts)
    stages = small.feature_info.info if hasattr(small.feature_info, "info") else small.feature_info
    seen: dict[str, int] = {}
    for stage in stages:
        place = small.get_submodule(stage["module"])
        place.register_forward_hook(lambda module, args, out, at=stage["module"]: seen.update({at: out.shape[1]}))
    with torch.no_grad():
        assert small.forward_features(x).shape[1] == small.num_features < full.num_features
        assert small.forward_head(small.forward_features(x), pre_logits=True).shape[1] == small.head_hidden_size
        assert all(seen[stage["module"]] == stage["num_chs"] for stage in stages if stage["module"] in seen)
        assert seen
        small.reset_classifier(0)
        assert small(x).shape == (2, small.head_hidden_size)
    data = timm().data
    assert data.resolve_model_data_config(small) == data.resolve_model_data_config(full)


class Stream(nn.Module):
    """Its convolution ``up`` writes a linear stream that two branches and the head read."""

    def __init__(self, *, own_tensor: bool = False) -> None:
        super().__init__()
        self.up, self.head, self.own_tensor = nn.Conv2d(3, 12, 3), nn.Linear(12, 4), own_tensor
        self.wide = nn.ModuleList(nn.Conv2d(12, 24, 1) for _ in range(2))
        self.back = nn.ModuleList(nn.Conv2d(24, 12, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        for wide, back in zip(self.wide, self.back, strict=True):
            x = x + back(wide(x).relu())
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits + self.head(torch.ones(1, 12)) if self.own_tensor else logits


def test_a_module_is_pruned_in_the_directions_of_its_streams(pairs: TensorDataset) -> None:
    net, (x, _) = Stream().eval(), pairs.tensors
    whole = mvp.prune(net, pairs, macs=0.6, round_to=1, recipe="compensated").unpruned
    assert not torch.allclose(whole.up.weight, net.up.weight, atol=0.01)
    with torch.no_grad():
        torch.testing.assert_close(whole(x), net(x), rtol=1e-4, atol=1e-4)


def test_where_that_cannot_be_checked_the_streams_stay_as_they_are(pairs: TensorDataset) -> None:
    net = Stream(own_tensor=True).eval()  # float32, whatever the weights are
    result = mvp.prune(net, pairs, macs=0.6, round_to=4, recipe="compensated")
    assert torch.equal(result.unpruned.up.weight, net.up.weight)


def test_of_several_ways_the_module_s_own_loss_chooses(pairs: TensorDataset) -> None:
    """The same ways as the command's: two criteria in one round, the better one in three."""

    def loss(**how: Any) -> float:
        return judged(mvp.prune(net, pairs, macs=0.5, **how).model, collect(pairs)).loss

    net = Net().eval()
    alone = [loss(recipe="compensated"), loss(recipe="compensated", criterion="taylor")]
    rounds = loss(criterion=["obs", "taylor"][int(alone[0] > alone[1])])
    assert loss() == pytest.approx(min(*alone, rounds), abs=1e-6)


def test_without_re_solving_the_result_is_the_exact_cut(pairs: TensorDataset) -> None:
    net, (x, _) = Stream().eval(), pairs.tensors
    result = mvp.prune(net, pairs, macs=0.6, round_to=1, reconstruct=False, recipe="compensated")
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), mvp.cut(net, result.plan, x[:2])(x))


def test_a_head_is_kept_that_knows_classes_without_images(pairs: TensorDataset) -> None:
    from mvp_deploy.backbones import timm

    model = timm().create_model("test_resnet", num_classes=9).eval()
    x, y = pairs.tensors
    x = x + y[:, None, None, None]  # four classes that a solved head tells apart
    result = mvp.prune(model, (x, y), macs=0.6, recipe="compensated")
    assert result.model.get_classifier().weight[4:].abs().min() > 0  # solved on four classes, the others get zeros


def test_a_name_and_a_task_give_what_the_command_gives(tmp_path: Path) -> None:
    result = mvp.prune("test_efficientnet", "digits#0,1", macs=0.5, image_size=32)
    assert result.classes == ("0", "1")
    assert result.report.accuracy is not None
    assert result.report.accuracy > 0.5
    asked = ["--backbone", "test_efficientnet", "--image-size", "32", "--macs", "0.5", "--steps", "0"]
    done = CliRunner().invoke(main, ["prune", "digits#0,1", *asked, "-q", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    run = runs.load(tmp_path / "run").pruned()
    assert run.plan == result.plan
    state = result.model.state_dict()
    assert all(torch.allclose(value, state[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"macs": 0.5, "keep": 0.5}, "keep, macs and params exclude each other"),
        ({"macs": float("nan")}, "it must be a finite number"),
        ({"macs": 0.5, "device": "gpu"}, "unknown device"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(arguments: dict[str, float], sentence: str, pairs: TensorDataset) -> None:
    with pytest.raises(mvp.MvpError, match=sentence):
        mvp.prune(Net(), pairs, **arguments)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "give no images"),
        (7, "gives no images"),
        ((torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4)), "uint8"),
        ((torch.full((4, 3, 8, 8), float("nan")), torch.zeros(4)), "NaN"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(3)), "4 images and 3 labels"),
        ((torch.zeros(4, 9, 8), torch.zeros(4)), r"give float32 \[4, 9, 8\]"),
        ([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 9), 1)], "one size"),
    ],
)
def test_data_that_cannot_be_used_is_named(data: object, sentence: str) -> None:
    with pytest.raises(mvp.MvpError, match=sentence):
        mvp.prune(Net(), data, macs=0.5)


def test_what_is_no_model_is_a_sentence(pairs: TensorDataset) -> None:
    with pytest.raises(mvp.InputError, match="A int cannot be pruned"):
        mvp.prune(7, pairs)  # type: ignore[arg-type]
