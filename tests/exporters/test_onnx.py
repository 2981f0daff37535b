from __future__ import annotations

from collections.abc import Iterator
from inspect import unwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional

from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.exporters import onnx as exporter
from mvp_deploy.exporters.errors import MvpError
from mvp_deploy.exporters.onnx import export_onnx
from mvp_deploy.exporters.parity import check_parity
from tests.onnxfiles import read_metadata, run_onnx

METADATA = {"classes": ["cat", "Käse"], "preprocessing": {"mean": [0.5, 0.5, 0.5]}}


@pytest.fixture(scope="module", autouse=True)
def translated_each_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "_translate", unwrap(exporter._translate))
        yield


def small_model(name: str = "resnet18", seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = timm().create_model(name, num_classes=2)
    for module in model.modules():  # fresh statistics would hide a batch norm that is exported wrongly
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(small_model(), torch.zeros(1, 3, 32, 32), tmp_path_factory.mktemp("o") / "a.onnx", METADATA)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_file_computes_what_the_model_does_at_any_batch_size(exported: Path, batch_size: int) -> None:
    images = np.random.default_rng(0).standard_normal((7, 3, 32, 32), np.float32)
    with torch.no_grad():
        expected = small_model().eval()(torch.from_numpy(images)).numpy()
    check_parity(expected, run_onnx(exported, images, batch_size))


def test_one_opset_18_file_with_weights_inside_and_metadata(exported: Path) -> None:
    assert [file.name for file in exported.parent.iterdir()] == ["a.onnx"]
    proto = onnx.load(exported, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert read_metadata(exported) == METADATA


def test_nothing_of_this_machine_is_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (b".py", b"site-packages", str(Path.home()).encode()):
        assert trace not in content


def test_equal_models_give_equal_bytes_and_the_model_stays_as_it_was(exported: Path, tmp_path: Path) -> None:
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, torch.zeros(4, 3, 32, 32), tmp_path / "b.onnx", METADATA)
    assert (tmp_path / "b.onnx").read_bytes() == exported.read_bytes()
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_transformer_exports_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = timm().models.VisionTransformer(**options).eval()
    images = torch.randn(3, 3, 32, 32)
    export_onnx(model, images, tmp_path / "vit.onnx", {})
    with torch.no_grad():
        check_parity(model(images).numpy(), run_onnx(tmp_path / "vit.onnx", images.numpy(), 1))


class Biased(torch.nn.Module):
    """Attention with a learned bias, as BEiT has it: attention takes another kernel where there is a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = torch.nn.Conv2d(3, 16, 8, 8), torch.nn.Linear(16, 48), torch.nn.Linear(16, 2)
        self.bias = torch.nn.Parameter(torch.randn(1, 4, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(x.shape[0], 16, 3, 4, 4).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return self.head(x.transpose(1, 2).reshape(x.shape[0], 16, 16).mean(1))


def test_attention_with_a_bias_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Biased().eval(), torch.randn(3, 3, 32, 32)
    export_onnx(model, images, tmp_path / "biased.onnx", {})
    with torch.no_grad():
        check_parity(model(images).numpy(), run_onnx(tmp_path / "biased.onnx", images.numpy(), 1))


def test_onnx_runtime_knows_the_gelu_and_computes_no_shape_of_attention(tmp_path: Path) -> None:
    """torch's own spelling of both cost a small transformer a quarter of its speed."""
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
    path = export_onnx(timm().models.VisionTransformer(**options), torch.zeros(1, 3, 32, 32), tmp_path / "v.onnx", {})
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert nodes.count("BiasGelu") + nodes.count("Gelu") == 2
    assert "Erf" not in nodes
    assert nodes.count("Shape") <= 1  # the batch size, for the class token


class Attention(torch.nn.Module):
    """Attention of every kind that falls back to torch's own spelling."""

    def __init__(self, mask: torch.Tensor | None, causal: bool) -> None:
        super().__init__()
        self.mask, self.causal = mask, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = functional.scaled_dot_product_attention(x, 2 * x, x, self.mask, is_causal=self.causal, scale=0.3)
        return functional.gelu(found, approximate="tanh").mean((1, 2))


@pytest.mark.parametrize(("mask", "causal"), [(None, False), (torch.eye(8).bool(), False), (None, True)])
def test_masked_attention_and_other_gelus_are_exported_as_well(
    mask: torch.Tensor | None, causal: bool, tmp_path: Path
) -> None:
    model, images = Attention(mask, causal), torch.randn(4, 3, 8, 8)
    path = export_onnx(model, images, tmp_path / "m.onnx", {})
    check_parity(model(images).numpy(), run_onnx(path, images.numpy(), 2))


class OfOtherRanks(torch.nn.Module):
    """Attention over three dimensions, as SAM has it, and over five, as Hiera."""

    def __init__(self, mask: torch.Tensor | None) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three, five = x.flatten(0, 1), x.unsqueeze(1)
        three = functional.scaled_dot_product_attention(three, 2 * three, three, self.mask).unflatten(0, (-1, 3))
        five = functional.scaled_dot_product_attention(five, 2 * five, five, self.mask).squeeze(1)
        return (three + 2 * five).mean((1, 2))


@pytest.mark.parametrize("mask", [None, torch.randn(8, 8), torch.eye(8).bool()])
def test_attention_of_other_ranks_is_exported(mask: torch.Tensor | None, tmp_path: Path) -> None:
    model, images = OfOtherRanks(mask), torch.randn(4, 3, 8, 8)
    path = export_onnx(model, images, tmp_path / "r.onnx", {})
    check_parity(model(images).numpy(), run_onnx(path, images.numpy(), 2))


def test_a_model_that_cannot_be_traced_is_an_expected_error(tmp_path: Path) -> None:
    class Stubborn(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum().item() > 0 else x.amax((2, 3))

    with pytest.raises(MvpError, match="Stubborn cannot be exported"):
        export_onnx(Stubborn(), torch.zeros(1, 3, 8, 8), tmp_path / "s.onnx", {})
    assert list(tmp_path.iterdir()) == []
