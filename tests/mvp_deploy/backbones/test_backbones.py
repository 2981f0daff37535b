from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone, build, create, timm
from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.pruning.original import Original

SMALL = "test_resnet"


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        "mobilenetv3_small_050",
        "test_convnext",
        "regnety_002",
    ],
)
def test_a_backbone_takes_any_number_of_classes(name: str) -> None:
    backbone, state = create(name, image_size=64)
    assert backbone.preprocessing.input_size == (3, 64, 64)
    x = torch.randn(2, 3, 64, 64)
    model = build(backbone, state, 5)
    assert not model.training
    assert model(x).shape == (2, 5)
    features = build(backbone, state, 0)
    assert features(x).ndim == 2
    assert same(dict(features.state_dict()), state)
    whole = dict(model.state_dict())
    assert same(state, {key: whole[key] for key in state})
    assert same(whole, dict(build(backbone, whole, 5, seed=1).state_dict()))  # a fitting head is kept
    assert build(backbone, whole, 3)(x).shape == (2, 3)  # another is dropped
    shapes = build(backbone, None, 5).state_dict()
    assert {key: value.shape for key, value in shapes.items()} == {k: v.shape for k, v in whole.items()}


def test_the_seed_decides_and_torchs_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    one, state = create(SMALL, seed=1)
    again, same_state = create(SMALL, seed=1)
    other, _ = create(SMALL, seed=2)
    assert one == again
    assert same(state, same_state)
    assert one.weights_sha256 != other.weights_sha256
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert "seed 1" in one.weights
    first, second = (build(one, state, 4, seed=7).state_dict() for _ in range(2))
    assert same(dict(first), dict(second))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_follows_weights_and_preprocessing_not_the_source(tmp_path: Path) -> None:
    backbone, state = create(SMALL, image_size=32)
    save_file(state, tmp_path / "a.safetensors")
    copy, _ = create(SMALL, image_size=32, weights=tmp_path / "a.safetensors")
    assert copy.weights == "the file a.safetensors"
    assert copy.fingerprint == backbone.fingerprint
    larger, _ = create(SMALL, image_size=64, weights=tmp_path / "a.safetensors")
    assert larger.weights_sha256 == backbone.weights_sha256
    assert larger.fingerprint != backbone.fingerprint


def test_it_survives_json() -> None:
    backbone, _ = create(SMALL)
    assert Backbone.from_json(backbone.to_json()) == backbone
    with pytest.raises(MvpError, match="not a description of a backbone"):
        Backbone.from_json({"name": SMALL})


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_training_scripts_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    backbone, state = create(SMALL, seed=3)
    trained = build(backbone, state, 9).state_dict()  # with a head of another size
    content = {prefix + key: value for key, value in trained.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / "a.pth")
    assert same(create(SMALL, weights=tmp_path / "a.pth")[1], state)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_position_embeddings_are_resampled_to_another_image_size(tmp_path: Path, name: str) -> None:
    _, state = create(name, image_size=128)
    save_file(state, tmp_path / "a.safetensors")
    backbone, resampled = create(name, image_size=64, weights=tmp_path / "a.safetensors")
    assert build(backbone, resampled, 2)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    kept = [key for key in state if resampled[key].shape == state[key].shape]
    assert all(torch.equal(resampled[key], state[key]) for key in kept if "position" not in key)
    assert len(kept) > len(state) / 2


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    backbone, state = create(SMALL)
    names = sorted(state)

    def refused(content: dict[str, Tensor], says: str) -> None:
        save_file(content, tmp_path / "a.safetensors")
        with pytest.raises(MvpError, match=says) as caught:
            create(SMALL, weights=tmp_path / "a.safetensors")
        assert caught.value.code == ExitCode.INPUT
        assert str(tmp_path) in str(caught.value)

    refused(
        {k: v for k, v in state.items() if k not in names[:5]},
        f"they lack {names[0]}, .* and 2 more|they lack",
    )
    refused(state | {"extra.weight": torch.zeros(1)}, "they have the unknown extra.weight")
    wide = state["layer1.0.conv1.weight"]
    refused(state | {"layer1.0.conv1.weight": torch.cat([wide, wide])}, r"layer1\.0\.conv1\.weight is \[")
    with pytest.raises(MvpError, match=f"the backbone {SMALL} do not fit"):
        build(backbone, create("test_vit")[1], 3)


def test_unreadable_weights_are_refused_and_no_pickle_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (ran,)  # type: ignore[return-value]

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "picture.pth").write_bytes(b"garbage")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pth")
    for name, says in [
        ("evil.pth", "not a safetensors or PyTorch file of plain tensors"),
        ("text.safetensors", "not a safetensors or PyTorch file of plain tensors"),
        ("picture.pth", r"plain tensors \(torch cannot read it\): save the model's"),
        ("numbers.pth", "holds no state dict"),
        ("nowhere.pth", "there is no weights file"),
    ]:
        with pytest.raises(MvpError, match=says):
            create(SMALL, weights=tmp_path / name)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet19", "did you mean resnet18"),
        ("resnet18.mine", "has no 'mine' of resnet18: it has .*a1_in1k"),
        ("qqqqq", "timm.list_models"),
        ("someone/theirs", "hf-hub:someone/theirs"),
    ],
)
def test_unknown_models_bring_suggestions(name: str, says: str) -> None:
    with pytest.raises(MvpError, match=says):
        create(name)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 40), ("test_vit", -4), (SMALL, 0)])
def test_an_image_size_the_model_cannot_take(name: str, size: int) -> None:
    with pytest.raises(MvpError, match=f"{name} cannot take images of {size} pixels .* --image-size"):
        create(name, image_size=size)


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known\nwith details")

    monkeypatch.setattr(backbones.timm().models._builder, "load_state_dict_from_hf", offline)
    with pytest.raises(MvpError, match=r"\(Name or service not known\).*--weights FILE") as caught:
        create("resnet18", pretrained=True)
    assert caught.value.code == ExitCode.ENVIRONMENT


def published(folder: Path, name: str, **arguments: object) -> torch.nn.Module:
    """A model as timm publishes it to the hub, in a folder."""
    model = backbones.timm().create_model(name, num_classes=7, **arguments).eval()
    model.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "license": "mit"}
    backbones.timm().models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("size", [None, 96])
def test_a_published_model_brings_architecture_weights_and_preprocessing(
    tmp_path: Path, name: str, size: int | None
) -> None:
    model = published(tmp_path, name)
    backbone, state = create(f"local-dir:{tmp_path}", image_size=size)
    assert (backbone.name, backbone.license) == (name, "mit")
    assert backbone.preprocessing.mean == (0.1, 0.2, 0.3)
    x = torch.rand(2, *backbone.preprocessing.input_size)
    assert x.shape[-1] == (size or 160)
    again = build(backbone, state, 0)
    if size is None:
        model.reset_classifier(0)
        torch.testing.assert_close(again(x), model(x))
    else:
        assert again(x).shape == (2, again.num_features)


def test_a_published_model_made_in_another_way_than_its_name_says_is_refused(tmp_path: Path) -> None:
    published(tmp_path, "test_resnet", global_pool="max")
    with pytest.raises(MvpError, match="not timm's plain test_resnet"):
        create(f"local-dir:{tmp_path}", pretrained=True)


def test_a_folder_without_a_published_model_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(MvpError, match=r"Config file not found.*name a folder with the config.json"):
        create(f"local-dir:{tmp_path}", pretrained=True)
    with pytest.raises(MvpError, match="leave out --weights"):
        create(f"local-dir:{tmp_path}", weights=tmp_path / "mine.safetensors")


def test_the_hub_out_of_reach_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(backbones.timm().models._hub, "download_from_hf", offline)
    with pytest.raises(MvpError, match=r"hf-hub:someone/theirs.*\(Name or service not known\).*--weights") as caught:
        create("hf-hub:someone/theirs", pretrained=True)
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_one_source_of_weights(tmp_path: Path) -> None:
    with pytest.raises(MvpError, match="choose one source"):
        create(SMALL, pretrained=True, weights=tmp_path / "a.pth")


BROKEN = """
import importlib, sys, types
real = importlib.import_module
calls = []
def broken(name, package=None):
    if name == "timm" and not calls:
        calls.append(name)
        sys.modules["timm.half"] = sys.modules["torchvision.half"] = types.ModuleType("half")
        raise RuntimeError({error!r})
    return real(name, package)
importlib.import_module = broken
from mvp_deploy.backbones.timm_import import timm
try:
    timm().create_model("test_resnet")
    print("timm.half" in sys.modules, "torchvision.half" in sys.modules)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("error", "prints"),
    [("operator torchvision::nms does not exist", "False False"), ("something else", "something else")],
)
def test_torchvision_without_its_operators_is_cured_and_nothing_else(error: str, prints: str) -> None:
    code = BROKEN.replace("{error!r}", repr(error))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == prints


@pytest.mark.parametrize("name", ["repvit_m0_9", "convformer_s18"])
def test_what_a_head_has_besides_its_classifier_comes_with_the_backbone(name: str, tmp_path: Path) -> None:
    trained = timm().create_model(name, num_classes=7).state_dict()
    save_file({key: torch.randn_like(value) if value.is_floating_point() else value for key, value in trained.items()},
              tmp_path / "trained.safetensors")  # fmt: skip
    written = load_file(tmp_path / "trained.safetensors")
    made, state = create(name, weights=tmp_path / "trained.safetensors", image_size=64)
    original = Original.create(made, state, 3)
    assert {key.rpartition(".")[0] for key in original.head} == {*original.classifier}
    assert all(torch.equal(state[key], written[key]) for key in state)
    assert {*written} - {*state} == original.head
    assert build(made, state, 0)(torch.zeros(1, 3, 64, 64)).ndim == 2
