"""Models that are nobody's zoo: modules of torch.nn and ways of writing a forward, each cut and compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import random_plan, randomise, relative_error, silenced
from torch import Tensor, nn

from mvp_deploy.base.errors import MvpError
from mvp_deploy.structure import KeepPlan, Structure, analyze, prune, silence


class Net(nn.Module):
    """`forward(modules, x)` as a model: embeds 6 features or channels, ends in 3 outputs."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def check(model: nn.Module, x: Tensor, plans: int = 3, macs: bool = True) -> Structure:
    """The smaller model equals the silenced one, by the engine's account and by the reference's, and still trains."""
    torch.manual_seed(0)
    randomise(model.eval())
    structure = analyze(model, x[:1])
    for seed in range(plans):
        plan = random_plan(structure, seed)
        small = prune(structure, model, plan).eval()
        with torch.no_grad():
            got, full = small(x), model(x)
            by_hooks = silenced(model, structure.tensor_masks(plan), x)(x)
            by_engine = silence(structure, model, plan)(x)
        assert relative_error(got, by_hooks) < 1e-5
        assert relative_error(got, by_engine) < 1e-5
        assert relative_error(got, full) > 1e-3  # else the comparison proves nothing
        assert structure.cost(plan).params == sum(p.numel() for p in small.parameters())
        assert not macs or structure.cost(plan).macs == analyze(small, x[:1]).cost().macs
    small.train()(x).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in small.parameters())
    return structure


def sizes(structure: Structure) -> dict[str, int]:
    return {group.name: group.size for group in structure.groups}


def kinds(structure: Structure) -> dict[str, set[int]]:
    out: dict[str, set[int]] = {}
    for group in structure.groups:
        out.setdefault(group.kind, set()).add(group.size)
    return out


IMAGES = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


def test_grouped_and_depthwise_convolutions_lose_whole_groups_and_places_inside() -> None:
    model = nn.Sequential(
        nn.Conv2d(6, 16, 3),
        nn.Conv2d(16, 24, 3, groups=4),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    structure = check(model, IMAGES)
    assert kinds(structure) == {"group": {4}, "group_dim": {4, 6}}


@pytest.mark.parametrize("groups", [1, 4])
def test_transposed_convolutions(groups: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(6, 8, 3),
        nn.ConvTranspose2d(8, 12, 2, stride=2, groups=groups),
        nn.GELU(),
        nn.Conv2d(12, 3, 1),
    )
    structure = check(model, IMAGES)
    assert sum(group.size for group in structure.groups) >= 8


def test_one_dimensional_and_volume_convolutions() -> None:
    model = Net(
        lambda m, x: m.head(m.volume(m.line(x.flatten(2)).unflatten(2, (1, 7, 8))).mean((2, 3, 4))),
        line=nn.Conv1d(6, 10, 9),
        volume=nn.Conv3d(10, 12, (1, 3, 3)),
        head=nn.Linear(12, 3),
    )
    assert sizes(check(model, IMAGES)) == {"line": 10, "volume": 12}


def test_shared_weights_are_cut_once() -> None:
    body = nn.Linear(12, 12)
    model = nn.Sequential(nn.Linear(6, 12), body, nn.ReLU(), body, nn.Linear(12, 3))
    structure = check(model, TOKENS)
    assert sizes(structure) == {"0": 12}


def test_tied_embedding_and_output_weights_are_one_tensor_afterwards() -> None:
    first, last = nn.Linear(6, 12, bias=False), nn.Linear(12, 6, bias=False)
    last.weight = nn.Parameter(first.weight.detach())
    model = Net(lambda m, x: m.head(F.linear(m.first(x), m.first.weight.t())), first=first, head=nn.Linear(6, 3))
    assert sizes(check(model, TOKENS)) == {"first": 12}


def test_a_module_called_twice() -> None:
    model = Net(
        lambda m, x: m.head(m.norm(m.block(m.norm(m.block(m.embed(x)))))),
        embed=nn.Linear(6, 16),
        block=nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)),
        norm=nn.LayerNorm(16),
        head=nn.Linear(16, 3),
    )
    assert sizes(check(model, TOKENS)) == {"embed": 16, "block.0": 32}


def test_a_residual_stream_is_one_group() -> None:
    model = Net(
        lambda m, x: m.head((m.a(x) + m.b(m.a(x).relu())).mean((2, 3))),
        a=nn.Conv2d(6, 10, 3),
        b=nn.Conv2d(10, 10, 3, padding=1),
        head=nn.Linear(10, 3),
    )
    assert sizes(check(model, IMAGES)) == {"a": 10}


def test_buffers_are_cut_with_their_units() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
            self.register_buffer("mask", torch.rand(12))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x) * self.mask)

    model = Masked()
    structure = check(model, TOKENS)
    plan = random_plan(structure, 0)
    small = prune(structure, model, plan)
    assert torch.equal(small.mask, model.mask[torch.from_numpy(plan.masks["embed"])])


def test_an_attention_mask_in_a_buffer_stays() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.head = nn.Linear(6, 48), nn.Linear(16, 3)
            self.register_buffer("mask", torch.full((5, 5), float("-inf")).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
            return self.head(F.scaled_dot_product_attention(q, k, v, self.mask).transpose(1, 2).flatten(2))

    structure = check(Causal(), TOKENS)
    assert kinds(structure) == {"head": {4}}
    assert any("follows from the head size" in why for frozen in structure.frozen for why in frozen.why)


@pytest.mark.parametrize(
    "equation", ["bnhd,bmhd->bhnm", "bnhd,bmhd->bnmh", "bnhd,bmhd->hbnm"], ids=["heads", "last", "first"]
)
def test_einsum(equation: str) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = m.q(x).unflatten(-1, (4, 4)), m.k(x).unflatten(-1, (4, 4))
        attention = torch.einsum(equation, q, k)
        dims = [d for d, letter in enumerate(equation[-4:]) if letter in "bn"]
        return m.head(attention.movedim(dims, (0, 1)).sum(-2 if equation.endswith("h") else -1))

    model = Net(forward, q=nn.Linear(6, 16), k=nn.Linear(6, 16), head=nn.Linear(4, 3))
    assert "head" in kinds(check(model, TOKENS, macs=False))  # einsum multiplies otherwise where one place is left


def test_branches_of_a_chunk_and_a_concatenation() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        a, b = m.stem(x).chunk(2, 1)
        return m.head(torch.cat([m.left(a), b, m.right(b).sigmoid()], 1).mean((2, 3)))

    model = Net(
        forward,
        stem=nn.Conv2d(6, 16, 3),
        left=nn.Conv2d(8, 5, 1),
        right=nn.Conv2d(8, 7, 1),
        head=nn.Linear(20, 3),
    )
    assert sizes(check(model, IMAGES)) == {"stem": 8, "left": 5, "right": 7}


@pytest.mark.parametrize("gate", ["glu", "swiglu", "split"])
def test_gated_units(gate: str) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        if gate == "glu":
            return m.head(F.glu(m.up(x)))
        a, b = m.up(x).chunk(2, -1) if gate == "swiglu" else m.up(x).split([12, 12], -1)
        return m.head(F.silu(a) * b)

    model = Net(forward, up=nn.Linear(6, 24), head=nn.Linear(12, 3))
    assert sizes(check(model, TOKENS)) == {"up": 12}


@pytest.mark.parametrize("first", [lambda x: x[..., :8], lambda x: x[..., -8:], lambda x: x.narrow(-1, 4, 8)])
def test_numbers_written_into_a_forward_are_rewritten(first: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda m, x: first(m.embed(x)).square().sum(-1, keepdim=True) * m.head(x), embed=nn.Linear(6, 12),
                head=nn.Linear(6, 3))  # fmt: skip
    assert check(model, TOKENS).groups
    plan = random_plan(analyze(model, TOKENS), 0)
    assert isinstance(prune(analyze(model, TOKENS), model, plan), torch.fx.GraphModule)


def test_a_program_runs_for_any_batch_size_and_can_be_pruned_again() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.embed(x).reshape(x.shape[0] * 5, 4, 3)
        return m.head(m.mix(y.transpose(1, 2)).flatten(1).reshape(x.shape[0], 5, 12))

    model = randomise(Net(forward, embed=nn.Linear(6, 12), mix=nn.Linear(4, 4), head=nn.Linear(12, 3)).eval())
    structure = analyze(model, TOKENS)
    plan = random_plan(structure, 0)
    small = prune(structure, model, plan)
    assert isinstance(small, torch.fx.GraphModule)
    for batch in (1, 2, 9):
        x = torch.randn(batch, 5, 6)
        with torch.no_grad():
            assert relative_error(small(x), silenced(model, structure.tensor_masks(plan), x)(x)) < 1e-5
    again = analyze(small, TOKENS)
    plan = random_plan(again, 1)
    with torch.no_grad():
        assert relative_error(prune(again, small, plan)(TOKENS), silence(again, small, plan)(TOKENS)) < 1e-5


def test_a_program_follows_other_image_sizes() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.conv(x)
        batch, _, height, width = y.shape
        y = y.view(batch, 12, 2, height * width).amax(2)  # 12 is written into it, so no eager module runs
        return m.head(y.view(batch, 12, height, width).mean((2, 3)))

    model = Net(forward, conv=nn.Conv2d(6, 24, 3, padding=1), head=nn.Linear(12, 3)).eval()
    structure = analyze(model, torch.randn(1, 6, 8, 8))
    plan = random_plan(structure, 0)
    small = prune(structure, model, plan)
    assert isinstance(small, torch.fx.GraphModule)
    with torch.no_grad():
        for shape in ((2, 6, 8, 8), (3, 6, 10, 14)):
            x = torch.randn(shape)
            assert relative_error(small(x), silence(structure, model, plan)(x)) < 1e-5


def test_rotary_halves_lose_the_same_places() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        q = m.q(x)
        half = q.shape[-1] // 2
        turned = torch.cat([-q[..., half:], q[..., :half]], -1)
        return m.head(q * m.cos + turned * m.sin)

    model = Net(
        forward,
        q=nn.Linear(6, 16),
        cos=nn.Parameter(torch.rand(16)),
        sin=nn.Parameter(torch.rand(16)),
        head=nn.Linear(16, 3),
    )
    assert sizes(check(model, TOKENS)) == {"q": 8}


def test_rotary_pairs_lose_whole_pairs() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        q = m.q(x)
        turned = torch.stack([-q[..., 1::2], q[..., ::2]], -1).reshape(q.shape)
        return m.head(q + 0.5 * turned)

    model = Net(forward, q=nn.Linear(6, 16), head=nn.Linear(16, 3))
    assert sizes(check(model, TOKENS)) == {"q": 8}


def test_pixel_shuffle_and_channel_shuffle() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(m.stem(x), 2)
        x = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        return m.head(m.depthwise(x).mean((2, 3)))

    model = Net(forward, stem=nn.Conv2d(6, 32, 3), depthwise=nn.Conv2d(8, 8, 3, groups=8), head=nn.Linear(8, 3))
    assert kinds(check(model, IMAGES))


def test_an_lstm_with_projections_is_kept_whole_and_named() -> None:
    model = Net(
        lambda m, x: m.head(m.lstm(m.embed(x))[0].mean(1)),
        embed=nn.Linear(6, 16), lstm=nn.LSTM(16, 12, proj_size=5, batch_first=True), head=nn.Linear(5, 3),
    )  # fmt: skip
    structure = analyze(model, TOKENS)
    assert structure.groups == ()
    assert structure.unknown == {"lstm with projections": 1}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both_ways", [False, True])
def test_recurrent_layers(kind: type[nn.RNNBase], both_ways: bool) -> None:
    model = Net(
        lambda m, x: m.head(m.rnn(m.embed(x))[0][:, -1]),
        embed=nn.Linear(6, 10),
        rnn=kind(10, 8, num_layers=2, batch_first=True, bidirectional=both_ways),
        head=nn.Linear(16 if both_ways else 8, 3),
    )
    structure = check(model, TOKENS)
    assert sorted(sizes(structure).values()) == [8, 10]


@pytest.mark.parametrize("norm", [nn.LayerNorm(12), nn.RMSNorm(12), nn.GroupNorm(3, 12), nn.InstanceNorm1d(12)])
def test_norms_are_taken_over_what_stays(norm: nn.Module) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.embed(x)
        x = m.norm(x) if hasattr(m.norm, "normalized_shape") else m.norm(x.transpose(1, 2)).transpose(1, 2)
        return m.head(x.square())

    model = Net(forward, embed=nn.Linear(6, 12), norm=norm, head=nn.Linear(12, 3))
    assert check(model, TOKENS).groups


def test_a_norm_written_out_is_a_norm() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.embed(x)
        return m.head(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    torch.manual_seed(0)
    model = randomise(Net(forward, embed=nn.Linear(6, 12), head=nn.Linear(12, 3)).eval())
    structure = analyze(model, TOKENS[:1])
    assert sizes(structure) == {"embed": 12}
    plan = random_plan(structure, 0)
    with torch.no_grad():
        assert relative_error(prune(structure, model, plan)(TOKENS), silence(structure, model, plan)(TOKENS)) < 1e-5


def test_multihead_attention() -> None:
    model = Net(
        lambda m, x: m.head(m.attention(m.embed(x), m.embed(x), m.embed(x), need_weights=False)[0]),
        embed=nn.Linear(6, 16),
        attention=nn.MultiheadAttention(16, 4, batch_first=True),
        head=nn.Linear(16, 3),
    )
    structure = check(model, TOKENS, plans=2)
    assert {group.name: group.size for group in structure.groups} == {
        "embed": 16,
        "attention.in_proj_weight:heads": 4,
        "attention.out_proj": 16,
    }


def test_transformer_encoder() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    structure = check(nn.Sequential(nn.Linear(6, 16), encoder, nn.Linear(16, 3)), TOKENS, plans=2)
    assert kinds(structure) == {"channel": {16}, "head": {4}, "hidden": {24}}


def test_transformer_encoder_stays_one_where_only_hidden_units_go() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = randomise(nn.Sequential(nn.Linear(6, 16), encoder, nn.Linear(16, 3)).eval())
    structure = analyze(model, TOKENS)
    masks = dict(KeepPlan.full(structure).masks)
    masks["1.layers.0.linear1"] = np.arange(24) % 3 > 0
    plan = KeepPlan(masks)
    small = prune(structure, model, plan)
    assert isinstance(small[1], nn.TransformerEncoder)
    with torch.no_grad():
        assert relative_error(small(TOKENS), silenced(model, structure.tensor_masks(plan), TOKENS)(TOKENS)) < 1e-5


@pytest.mark.parametrize(
    ("name", "mix"),
    [
        ("softmax", lambda m, x: F.softmax(x, -1)),
        ("mean", lambda m, x: x - x.mean(-1, keepdim=True)),
        ("amax", lambda m, x: x / (1 + x.amax(-1, keepdim=True).abs())),
        ("cumsum", lambda m, x: x.cumsum(-1)),
        ("sort", lambda m, x: x.sort(-1).values),
        ("flip", lambda m, x: x.flip(-1)),
        ("convolution", lambda m, x: m.mix(x.flatten(0, 1).unsqueeze(1)).reshape(x.shape)),
        ("fft_rfft", lambda m, x: torch.fft.rfft(x, n=23, dim=-1).abs()),
    ],
)
def test_what_mixes_units_freezes_them_and_is_named(name: str, mix: Callable[..., Tensor]) -> None:
    model = Net(
        lambda m, x: m.head(mix(m, m.embed(x))),
        embed=nn.Linear(6, 12),
        mix=nn.Conv1d(1, 1, 3, padding=1),
        head=nn.Linear(12, 3),
    )
    structure = analyze(model, TOKENS)
    assert not structure.groups
    why = next(frozen.why for frozen in structure.frozen if frozen.member.tensor == "embed.weight")
    assert name.split("_")[0] in why[0]


@pytest.mark.parametrize(
    ("add_up", "free"),
    [
        (lambda x: x.relu().sum(-1, keepdim=True), True),
        (lambda x: x.sigmoid().sum(-1, keepdim=True), False),
        (lambda x: (x + 1).norm(dim=-1, keepdim=True), False),
        (lambda x: (x.sigmoid() * x).sum(-1, keepdim=True), True),
        (lambda x: x.exp() @ x.cos().transpose(-2, -1), False),
        (lambda x: x.exp() @ x.transpose(-2, -1), True),
        (lambda x: F.pad(x, (0, 2), value=1.0) @ F.pad(x, (0, 2)).transpose(-2, -1), True),
    ],
)
def test_units_that_are_not_zero_when_silent_cannot_be_added_up(add_up: Callable[..., Tensor], free: bool) -> None:
    width = add_up(torch.zeros(1, 5, 12)).shape[-1]
    model = Net(lambda m, x: m.head(add_up(m.embed(x))), embed=nn.Linear(6, 12), head=nn.Linear(width, 3))
    structure = check(model, TOKENS) if free else analyze(model, TOKENS)
    assert bool(structure.groups) is free


def test_what_has_no_units_is_not_loud() -> None:
    model = Net(lambda m, x: m.head(m.embed(2 * (x - 0.5)).square().sum(-1, keepdim=True)), embed=nn.Linear(6, 12),
                head=nn.Linear(1, 3))  # fmt: skip
    assert sizes(check(model, TOKENS)) == {"embed": 12}


@pytest.mark.parametrize(("least", "free"), [(-1.0, True), (0.5, False)])
def test_a_bound_in_a_buffer_is_known(least: float, free: bool) -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(6, 12), nn.Linear(1, 3)
            self.register_buffer("least", torch.tensor(least))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.clamp(self.embed(x), self.least).sum(-1, keepdim=True))

    assert bool(analyze(Bounded(), TOKENS).groups) is free


def test_grouped_query_attention_loses_keys_with_their_queries() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (m.q(x).unflatten(-1, (6, 4)), m.k(x).unflatten(-1, (2, 4)), m.v(x).unflatten(-1, (2, 4)))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return m.head(F.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True).transpose(1, 2).flatten(2))

    model = Net(forward, q=nn.Linear(6, 24), k=nn.Linear(6, 8), v=nn.Linear(6, 8), head=nn.Linear(24, 3))
    assert kinds(check(model, TOKENS, plans=2))["head"] == {2}


def grn(m: Net, x: Tensor) -> Tensor:
    strength = x.norm(dim=1, keepdim=True)
    return x * strength / (strength.mean(-1, keepdim=True) + 1e-6)


def eca(m: Net, x: Tensor) -> Tensor:
    return x * m.mix(x.mean(1).unsqueeze(1)).sigmoid()


@pytest.mark.parametrize(("name", "mix"), [("mean", grn), ("convolution", eca)])
def test_units_that_are_mixed_go_only_where_inexact_removal_is_allowed(name: str, mix: Callable[..., Tensor]) -> None:
    model = Net(
        lambda m, x: m.head(mix(m, m.embed(x))),
        embed=nn.Linear(6, 12),
        mix=nn.Conv1d(1, 1, 3, padding=1),
        head=nn.Linear(12, 3),
    )
    randomise(model.eval())
    assert not analyze(model, TOKENS).groups
    structure = analyze(model, TOKENS, allow_inexact=True)
    assert sizes(structure) == {"embed": 12}
    assert any(why.startswith(name) for why in structure.inexact)
    plan = random_plan(structure, 0)
    with torch.no_grad():
        small = prune(structure, model, plan)(TOKENS)
        error = relative_error(small, silence(structure, model, plan)(TOKENS))
        by_hooks = relative_error(small, silenced(model, structure.tensor_masks(plan), TOKENS)(TOKENS))
    assert error > 1e-3
    assert error == pytest.approx(by_hooks, rel=1e-3)


def test_nothing_is_inexact_where_nothing_is_mixed() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 3))
    structure = analyze(model, TOKENS, allow_inexact=True)
    assert sizes(structure) == {"0": 12}
    assert not structure.inexact


def test_unknown_operators_are_listed() -> None:
    model = Net(lambda m, x: m.head(torch.special.i0e(m.embed(x)) + torch.linalg.qr(m.embed(x)).Q.sum()),
                embed=nn.Linear(6, 4), head=nn.Linear(4, 3))  # fmt: skip
    structure = analyze(model, TOKENS)
    assert "linalg_qr" in structure.unknown
    assert not structure.groups


def test_parameters_the_forward_does_not_use_stay() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 3))
    model.register_parameter("spare", nn.Parameter(torch.zeros(12)))
    structure = check(model, TOKENS)
    assert sizes(structure) == {"0": 12}
    why = next(frozen.why for frozen in structure.frozen if frozen.member.tensor == "spare")
    assert why == ("not used by the model's forward",)


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.one, self.two = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            stream = self.a(x) + self.b(y)
            return {"one": self.one(stream), "two": self.two(stream)}

    model = randomise(Two().eval())
    inputs = (torch.randn(2, 6), torch.randn(2, 4))
    structure = analyze(model, inputs)
    assert sizes(structure) == {"a": 8}
    plan = random_plan(structure, 0)
    with torch.no_grad():
        got, wanted = prune(structure, model, plan)(*inputs), silence(structure, model, plan)(*inputs)
    assert relative_error(got, wanted) < 1e-5


def test_an_auxiliary_head_that_only_training_uses_is_cut_along() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.auxiliary = nn.Linear(6, 12), nn.Linear(12, 3), nn.Linear(12, 2)
            self.norm, self.spare = nn.BatchNorm1d(12), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            y = self.norm(self.stem(x))
            return (self.head(y), self.auxiliary(y)) if self.training else self.head(y)

    model = Auxiliary().eval()
    structure = analyze(model, torch.zeros(1, 6))
    small = prune(structure, model, random_plan(structure, 0)).train()
    assert [out.shape[1] for out in small(torch.randn(4, 6))] == [3, 2]
    assert small.auxiliary.in_features < 12
    unused = {frozen.member.tensor for frozen in structure.frozen if frozen.why == ("not used by the model's forward",)}
    assert unused == {"spare.weight", "spare.bias"}


@pytest.mark.parametrize(
    ("forward", "cure"),
    [
        (lambda m, x: m.head(x) if x.sum() > 0 else -m.head(x), "looks at the values"),
        (lambda m, x: m.head(x[:, :4]), "Check the input size"),
        (lambda m, x: m.head(x) + {}["missing"], r"'missing'\.$"),
    ],
)
def test_an_error_s_cure_is_named_where_it_is_known(forward: Callable[..., Tensor], cure: str) -> None:
    with pytest.raises(MvpError, match=cure):
        analyze(Net(forward, head=nn.Linear(6, 3)), torch.zeros(1, 6))


@pytest.mark.parametrize("example", ["x", None, (), np.ones((2, 6)), {"x": torch.ones(2, 6)}])
def test_an_example_that_is_not_a_tensor_is_refused(example: object) -> None:
    with pytest.raises(MvpError, match="pass a tensor"):
        analyze(nn.Linear(6, 3), example)  # type: ignore[arg-type]


def test_a_weight_that_a_hook_recomputes_is_refused_with_the_cure() -> None:
    with pytest.raises(MvpError, match="remove_weight_norm"):
        analyze(nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 8)), nn.Linear(8, 3)), torch.ones(2, 6))


def test_a_missing_input_is_asked_for() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(MvpError, match="one example for each input"):
        analyze(Two(), torch.zeros(1, 6))


def test_a_wrong_input_is_refused_by_name() -> None:
    with pytest.raises(MvpError, match=r"Sequential cannot be traced .*in 0"):
        analyze(nn.Sequential(nn.Linear(6, 3)), torch.zeros(1, 7))


def test_a_billion_parameters_are_analysed_without_memory() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*[nn.Linear(16384, 16384, bias=False) for _ in range(4)], nn.Linear(16384, 3))
    structure = analyze(model, torch.empty(1, 16384, device="meta"))
    assert structure.cost().params > 1e9
    assert set(sizes(structure).values()) == {16384}
