"""Linear layers as matrices, and the second moments of what they read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvp_deploy.backbones import timm
from mvp_deploy.pruning.linear import LinearCalls, LinearLayer, linear_layers
from mvp_deploy.pruning.moments import collect
from mvp_deploy.structure import KeepPlan, analyze

SEED = 0
LAYERS = {
    "pointwise": nn.Conv2d(6, 4, 1, bias=False),
    "strided": nn.Conv2d(6, 4, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(6, 4, (3, 2), padding=(2, 1), dilation=2),
    "same": nn.Conv2d(6, 4, 4, padding="same", dilation=2),
    "valid": nn.Conv2d(6, 4, 3, padding="valid"),
    "reflected": nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
    "grouped": nn.Conv2d(6, 4, 3, groups=2),
    "depthwise": nn.Conv2d(6, 12, (1, 3), groups=6, padding=(0, 1)),
}


def calls(model: nn.Module, x: Tensor) -> list[tuple[LinearLayer, Tensor, Tensor]]:
    seen: list[tuple[LinearLayer, Tensor, Tensor]] = []
    layers = linear_layers(model, (x,))

    def visit(layer: LinearLayer, x: Tensor, y: Tensor) -> None:
        seen.append((layer, x.clone(), y.clone()))  # models overwrite them

    with torch.no_grad(), LinearCalls(model, layers, visit):
        model(x)
    return seen


def assert_is_the_matrix(model: nn.Module, layer: LinearLayer, x: Tensor, y: Tensor, at: Tensor | None = None) -> None:
    got = layer.inputs(x, at) @ layer.matrix(model.get_parameter(layer.weight)).mT
    if layer.bias is not None:
        got = got + model.get_parameter(layer.bias).reshape(layer.groups, 1, -1)
    wanted = layer.results(y)
    if at is not None:
        wanted = wanted.unflatten(1, (len(x), -1))[:, :, at].flatten(1, 2)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_are_matrices(name: str) -> None:
    model = nn.Sequential(LAYERS[name])
    [(layer, x, y)] = calls(model, torch.randn(3, 6, 9, 7))
    assert layer.weight == "0.weight"
    assert_is_the_matrix(model, layer, x, y)
    assert_is_the_matrix(model, layer, x, y, torch.tensor([0, 5, 7]))
    assert layer.places(x) == y.shape[2:].numel()


def test_linear_and_one_dimensional_layers_are_matrices() -> None:
    for model, x in (
        (nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 5, 6)),
        (nn.Sequential(nn.Linear(6, 4, bias=False)), torch.randn(3, 6)),
        (nn.Sequential(nn.Conv1d(6, 4, 3, stride=2, padding=1)), torch.randn(3, 6, 9)),
    ):
        [(layer, inputs, y)] = calls(model, x)
        assert_is_the_matrix(model, layer, inputs, y)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_every_linear_layer_of_a_model_is_found_with_its_units(name: str) -> None:
    model = timm().create_model(name, num_classes=3).eval()
    x = torch.randn(2, *model.default_cfg["input_size"])
    structure = analyze(model, x)
    seen = calls(model, x)
    modules = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert {layer.weight for layer, _, _ in seen} == modules
    for layer, inputs, y in seen:
        assert_is_the_matrix(model, layer, inputs, y)
    for group in structure.groups:
        readers = [layer.input_units(structure, group) for layer, _, _ in seen]
        makers = [layer.output_units(structure, group) for layer, _, _ in seen]
        for units in (readers, makers):
            assert any(set(range(group.size)) <= set(u.flatten().tolist()) for u in units)


def test_a_recorded_program_has_the_same_layers() -> None:
    from mvp_deploy.structure.program import prune_program

    model = timm().create_model("test_efficientnet", num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    structure = analyze(model, x)
    program = prune_program(structure, model, KeepPlan.full(structure), "")
    assert linear_layers(program, (x,)) == linear_layers(model, (x,))


def test_the_batch_norm_is_named_only_where_it_alone_reads_the_layer() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, bias=False)
            self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.other(self.second(self.norm(y) + y))

    layers = linear_layers(Both().eval(), (torch.randn(1, 3, 2, 2),))
    first, second = layers.values()
    assert (first.norm, first.bias) == (None, "first.bias")
    assert (second.norm, second.bias) == ("other.running_mean", None)


def test_packed_attention_is_seen() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    names = set(linear_layers(model, (torch.randn(2, 5, 8),)))
    assert names == {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"}


def test_moments_add_up_and_places_drawn_are_scaled() -> None:
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(1)).eval()
    x, labels = torch.randn(8, 3, 40, 40), torch.zeros(8, dtype=torch.int64)
    layers = linear_layers(model, (x,))
    parts = [collect(model, layers, [(part, labels)], 4) for part in x.split(4)]
    both = collect(model, layers, [(part, labels) for part in x.split(4)], 1)  # so few images: every place
    for name, layer in layers.items():
        moments = parts[0][name] + parts[1][name]
        assert moments.images == 8
        assert moments.products.shape == (layer.groups, layer.columns + 1, layer.columns + 1)
        places = 1600 if name == "0.weight" else 38 * 38
        np.testing.assert_allclose(moments.products[:, -1, -1] / moments.images, places, rtol=1e-5)
        scale = moments.products.diagonal(dim1=1, dim2=2).mean()
        assert (both[name].products - moments.products).abs().max() < 0.2 * scale
