"""Modules written to mislead the analysis: whatever is cut from them is exact, or refused with a sentence."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import random_plan, randomise, relative_error, silenced
from torch import Tensor, nn

from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.structure import analyze, prune, silence
from mvp_deploy.structure.calls import leaves_in
from mvp_deploy.structure.rules.registry import OPERATORS

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
UNITS = 12


class Net(nn.Module):
    """Embeds 6 features as 12 units, does `use(self, units)`, and reads 3 outputs from them."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor], width: int = UNITS) -> None:
        super().__init__()
        self.embed, self.other, self.head = nn.Linear(6, UNITS), nn.Linear(6, UNITS), nn.Linear(width, 3)
        self.units = UNITS
        self.sizes = {"units": UNITS}
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.use(self, self.embed(x)))


def inplace(y: Tensor, function: Callable[[Tensor], Any]) -> Tensor:
    function(y)
    return y


def loop(y: Tensor, times: int) -> Tensor:
    for step in range(times):
        y = y + 0.01 * step
    return y


def broken(y: Tensor) -> Tensor:
    raise ValueError("no such thing")


NUMBERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "1.0 / C": lambda m, y: y * (1.0 / y.shape[-1]),
    "2.5 * C": lambda m, y: y * (2.5 * y.shape[-1]),
    "C * 2.5": lambda m, y: y * (y.shape[-1] * 2.5),
    "C - 0.5": lambda m, y: y * (y.shape[-1] - 0.5),
    "2.0 ** C": lambda m, y: y * (1.1 ** y.shape[-1]),
    "7.5 % C": lambda m, y: y * (7.5 % y.shape[-1]),
    "np.sqrt(C)": lambda m, y: y / float(np.sqrt(y.shape[-1])),
    "np.array([C])": lambda m, y: y * float(np.array([y.shape[-1]]).sum()),
    "np.prod(shape)": lambda m, y: y / float(np.prod(y.shape)),
    "math.log(C)": lambda m, y: y * math.log(y.shape[-1]),
    "math.sqrt(C)": lambda m, y: y * math.sqrt(y.shape[-1]),
    "math.prod(shape)": lambda m, y: y / math.prod(y.shape),
    "int(C)": lambda m, y: y * int(y.shape[-1]),
    "C % 5": lambda m, y: y * (y.shape[-1] % 5 + 1),
    "C & 5": lambda m, y: y * ((y.shape[-1] & 5) + 1),
    "C << 1": lambda m, y: y * (y.shape[-1] << 1),
    "abs(C)": lambda m, y: y * abs(y.shape[-1]),
    "round(C / 7)": lambda m, y: y * (round(y.shape[-1] / 7) + 1),
    "divmod(C, 5)": lambda m, y: y * (divmod(y.shape[-1], 5)[1] + 1),
    "max(C, 10)": lambda m, y: y * max(y.shape[-1], 10),
    "C > 11": lambda m, y: y * 2 if y.shape[-1] > 11 else y * 3,
    "C == 12": lambda m, y: y * 2 if y.shape[-1] == 12 else y * 3,
    "C in (8, 12)": lambda m, y: y * 2 if y.shape[-1] in (8, 12) else y * 3,
    "shape == (…, C)": lambda m, y: y * 2 if tuple(y.shape[1:]) == (5, 12) else y * 3,
    "{12: 2.0}[C]": lambda m, y: y * {12: 2.0}.get(y.shape[-1], 1.0),
    "str(C)": lambda m, y: y * len(f"{'x' * y.shape[-1]}"),
    "range(C)": lambda m, y: loop(y, y.shape[-1]),
    "numel()": lambda m, y: y / y.numel(),
    "nelement()": lambda m, y: y / y.nelement(),
    "size().numel()": lambda m, y: y / y.size().numel(),
    "stride()": lambda m, y: y / y.stride(1),
    "len(y.T)": lambda m, y: y / len(y.transpose(0, -1)),
    "enumerate(y)": lambda m, y: y + sum(i * 0.1 for i, _ in enumerate(y.transpose(0, -1))),
    "y.div_(C)": lambda m, y: y.div_(y.shape[-1]),
    "alpha=C": lambda m, y: torch.add(y, y, alpha=y.shape[-1]),
    "value=C": lambda m, y: torch.addcmul(y, y, y, value=y.shape[-1]),
    "clamp(max=C)": lambda m, y: (100 * y).clamp(max=y.shape[-1]),
    "leaky_relu(1 / C)": lambda m, y: F.leaky_relu(y, 1.0 / y.shape[-1]),
    "torch.tensor(C)": lambda m, y: y * torch.tensor(y.shape[-1]),
    "torch.tensor([1.0 / C])": lambda m, y: y * torch.tensor([1.0 / y.shape[-1]]),
    "torch.full(…, C)": lambda m, y: y * torch.full((1,), y.shape[-1]),
    "new_tensor(C)": lambda m, y: y * y.new_tensor(y.shape[-1]),
    "new_full(…, C)": lambda m, y: y * y.new_full((1,), y.shape[-1]),
    "from_numpy": lambda m, y: y * torch.from_numpy(np.array([y.shape[-1]], np.float32)),
    "arange(C)": lambda m, y: y * torch.arange(y.shape[-1]).sum(),
    "linspace(C)": lambda m, y: y + torch.linspace(0, 1, y.shape[-1]).square().sum(),
    "eye(C)": lambda m, y: y * torch.eye(y.shape[-1]).sum(),
    "in_features": lambda m, y: y * (1.0 / math.sqrt(m.head.in_features)),
    "in_features ** -0.5": lambda m, y: y * m.head.in_features**-0.5,
    "equalised learning rate": lambda m, y: F.linear(y, m.head.weight * m.head.in_features**-0.5) @ y.new_ones(3, 12),
    "weight.shape[1]": lambda m, y: y / m.head.weight.shape[1],
    "len(weight)": lambda m, y: y / len(m.embed.weight),
    "weight.numel()": lambda m, y: y * m.head.weight.numel(),
    "number of parameters": lambda m, y: y / sum(p.numel() for p in m.parameters()),
    "a size in a dictionary": lambda m, y: y.reshape(-1, m.sizes["units"]).unflatten(0, (-1, 5)) / m.sizes["units"],
    "an attribute": lambda m, y: y * (1.0 / m.units),
    "an attribute and a view": lambda m, y: y.reshape(-1, m.units).unflatten(0, (-1, 5)) * (1.0 / m.units),
    "a sum over C": lambda m, y: y + y.sum(-1, keepdim=True) / y.shape[-1],
}

LOUD: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "ones_like": lambda m, y: y + torch.ones_like(y).sum(-1, keepdim=True),
    "full_like": lambda m, y: y + torch.full_like(y, 0.5).sum(-1, keepdim=True),
    "new_ones": lambda m, y: y + y.new_ones(y.shape).sum(-1, keepdim=True),
    "ones(shape)": lambda m, y: y + torch.ones(y.shape).sum(-1, keepdim=True),
    "ones(C)": lambda m, y: y + torch.ones(y.shape[-1]).sum(),
    "ones(C) @": lambda m, y: y + (torch.ones(y.shape[-1]) @ torch.ones(y.shape[-1])),
    "zeros_like, then a view": lambda m, y: (
        y + inplace(torch.zeros_like(y), lambda z: z.view(-1).add_(1)).sum(-1, True)
    ),
    "a view, then in place": lambda m, y: y + inplace(y * 1, lambda z: z.flatten().add_(1)).sum(-1, keepdim=True),
    "a part, then in place": lambda m, y: y + inplace(y * 1, lambda z: z[..., :6].exp_()).sum(-1, keepdim=True),
    "an item set": lambda m, y: y + inplace(y * 1, lambda z: z.__setitem__((..., slice(0, 4)), 1.0)).sum(-1, True),
    "fill_ of a view": lambda m, y: y + inplace(y * 1, lambda z: z.transpose(0, 1).fill_(1)).sum(-1, keepdim=True),
    "copy_ into a part": lambda m, y: (
        y + inplace(y * 1, lambda z: z[:, 1:].copy_((y + 1)[:, 1:])).sum(-1, keepdim=True)
    ),
    "chunks in place": lambda m, y: y + inplace(y * 1, lambda z: [c.cos_() for c in z.chunk(2, -1)]).sum(-1, True),
    "zeros counted": lambda m, y: y + (y == 0).sum(-1, keepdim=True),
    "count_nonzero of a mask": lambda m, y: y + torch.count_nonzero(y > -1, -1).unsqueeze(-1),
    "not": lambda m, y: y + (y > 0).logical_not().float().sum(-1, keepdim=True),
    "where": lambda m, y: y + torch.where(y > 0, y, 1.0).sum(-1, keepdim=True),
    "masked_fill": lambda m, y: y + y.masked_fill(y <= 0, 0.5).sum(-1, keepdim=True),
    "cdist": lambda m, y: y + torch.cdist(y.cos(), y.sin()).sum(-1, keepdim=True),
    "pairwise distance": lambda m, y: y + F.pairwise_distance(y.cos(), y, eps=0.5).unsqueeze(-1),
    "einsum of ones": lambda m, y: y + torch.einsum("bnc,bnc->bn", torch.ones_like(y), y + 1).unsqueeze(-1),
    "an outer product": lambda m, y: y + (y.unsqueeze(-1) + y.unsqueeze(-2)).exp().sum((-1, -2)).unsqueeze(-1) * 1e-3,
    "logsumexp": lambda m, y: y + y.logsumexp(-1, keepdim=True),
    "prod": lambda m, y: y + y.prod(-1, keepdim=True),
    "norm 0": lambda m, y: y + (y + 1).norm(p=0, dim=-1, keepdim=True),
    "norm inf": lambda m, y: y + (y + 1).norm(p=float("inf"), dim=-1, keepdim=True),
    "argmax": lambda m, y: y * (1 + y.argmax(-1, keepdim=True)),
    "median": lambda m, y: y + y.median(-1, keepdim=True).values,
    "quantile": lambda m, y: y + torch.quantile(y, 0.3, dim=-1, keepdim=True),
    "topk": lambda m, y: y + y.topk(2, -1).values.sum(-1, keepdim=True),
    "gather": lambda m, y: y + y.gather(-1, torch.zeros(*y.shape[:2], 1, dtype=torch.long)),
    "cumsum": lambda m, y: y.cumsum(-1),
    "scatter": lambda m, y: y + torch.zeros_like(y).index_add(1, torch.arange(5), y),
    "normalize": lambda m, y: F.normalize(y, dim=-1),
    "cosine similarity": lambda m, y: y * F.cosine_similarity(y, y.sin(), dim=-1).unsqueeze(-1),
    "local response norm": lambda m, y: F.local_response_norm(y.transpose(1, 2), 3).transpose(1, 2),
    "unfold over units": lambda m, y: y + y.unfold(-1, 3, 1).sum((-1, -2)).unsqueeze(-1),
    "a pool over units": lambda m, y: y + F.avg_pool1d(y, 12),
    "interpolation of units": lambda m, y: F.interpolate(y, size=12, mode="linear"),
    "fold of a constant": lambda m, y: y + (torch.ones(1, 1, 12) * 2).view(12).cumsum(0)[-1],
    "expanded one": lambda m, y: y + torch.ones(1).expand(y.shape[-1]).sum(),
    "repeated one": lambda m, y: y + torch.ones(1).repeat(y.shape[-1]).sum(),
    "a stack of ones": lambda m, y: y + torch.stack([torch.ones(()) for _ in range(y.shape[-1])]).sum(),
}

KEYWORDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "scaled_dot_product_attention": lambda m, y: heads(
        y, lambda q: F.scaled_dot_product_attention(query=q, key=q, value=q)
    ),
    "with a scale": lambda m, y: heads(
        y, lambda q: F.scaled_dot_product_attention(key=q, query=q, value=-q, scale=0.3, attn_mask=q.new_ones(5, 5))
    ),
    "narrow": lambda m, y: torch.cat(
        tensors=[torch.narrow(input=y, dim=-1, start=6, length=6), y.narrow(dim=2, start=0, length=6)], dim=-1
    ),
    "split": lambda m, y: torch.cat([p.cos() for p in torch.split(tensor=y, split_size_or_sections=[4, 8], dim=2)], -1),
    "split of a method": lambda m, y: torch.cat([p.sin() for p in y.split(split_size=4, dim=-1)], dim=-1),
    "chunk": lambda m, y: torch.cat([p.sin() for p in torch.chunk(input=y, chunks=2, dim=-1)], dim=-1),
    "unflatten": lambda m, y: y.unflatten(dim=-1, sizes=(3, 4)).transpose(dim0=-1, dim1=-2).flatten(start_dim=-2),
    "reshape": lambda m, y: torch.reshape(input=torch.reshape(input=y, shape=(-1, 3, 4)), shape=(-1, 5, 12)),
    "permute": lambda m, y: torch.permute(input=y.view(size=(-1, 5, 3, 4)), dims=(0, 1, 3, 2)).reshape(-1, 5, 12),
    "linear": lambda m, y: F.linear(input=y, weight=m.head.weight, bias=m.head.bias) @ m.head.weight,
    "conv1d": lambda m, y: F.conv1d(input=y.transpose(1, 2), weight=m.embed.weight.view(12, 2, 3)[:, :1, :1], groups=12)
    .transpose(1, 2),
    "sum": lambda m, y: y + torch.sum(input=y, dim=-1, keepdim=True),
    "mean": lambda m, y: y + torch.mean(input=y, dim=-1, keepdim=True),
    "softmax": lambda m, y: torch.softmax(input=y, dim=-1),
    "axis=": lambda m, y: y + y.cos().sum(axis=-1, keepdims=True),
    "index_select": lambda m, y: y + torch.index_select(input=y, dim=-1, index=torch.tensor([3])),
    "expand": lambda m, y: y + y[..., :1].expand(size=(-1, -1, 12)),
    "repeat_interleave": lambda m, y: y + torch.repeat_interleave(input=y[..., :6], repeats=2, dim=-1),
    "glu": lambda m, y: torch.cat([F.glu(input=y, dim=-1)] * 2, -1),
    "pixel_shuffle": lambda m, y: F.pixel_unshuffle(F.pixel_shuffle(input=y.mT.unsqueeze(-1), upscale_factor=2), 2)
    .squeeze(-1).mT,
    "einsum": lambda m, y: torch.einsum("bnc,dc->bnd", y, m.embed.weight @ m.other.weight.T),
    "flip": lambda m, y: torch.flip(input=y, dims=(-1,)),
    "roll": lambda m, y: torch.roll(input=y, shifts=1, dims=-1),
    "pad": lambda m, y: F.pad(input=y, pad=(1, 0), value=2.0)[..., 1:],
    "stack": lambda m, y: torch.stack(tensors=[y, y.cos()], dim=-1).sum(dim=-1),
    "multiply by keyword": lambda m, y: torch.mul(input=y, other=y.shape[-1]),
}  # fmt: skip


NORMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "unbiased variance": lambda m, y: y * y.var(-1, keepdim=True) + y.std(-1, correction=0, keepdim=True),
    "standard deviation and mean": lambda m, y: y * torch.std_mean(y, -1, keepdim=True)[0],
    "a mean of squares of what is loud": lambda m, y: y * torch.rsqrt(y.cos().square().mean(-1, keepdim=True)),
    "batch norm by batch": lambda m, y: F.batch_norm(y.flatten(0, 1), None, None, training=True).view(y.shape),
    "layer_norm": lambda m, y: F.layer_norm(input=y, normalized_shape=(12,), eps=1e-3),
    "group_norm": lambda m, y: F.group_norm(input=y.transpose(1, 2), num_groups=3).transpose(1, 2),
}


class Returns(nn.Module):
    """Gives `what(units, logits)`, where the 12 units come before the 3 logits."""

    def __init__(self, what: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, UNITS), nn.Linear(UNITS, 3)
        self.what = what

    def forward(self, x: Tensor) -> Any:
        units = self.embed(x)
        return self.what(units, self.head(units))


class Holder:
    def __init__(self, **content: Any) -> None:
        self.__dict__.update(content)


@dataclass(slots=True)
class Slotted:
    units: Any
    logits: Tensor


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "an object": lambda y, z: (z, Holder(units=y)),
    "a dataclass with slots": lambda y, z: Slotted(y, z),
    "a generator": lambda y, z: (z, (t for t in [y])),
    "a set": lambda y, z: (z, {y}),
    "a function": lambda y, z: (z, lambda: y),
    "an array": lambda y, z: (z, np.array(y.shape)),
    "a size": lambda y, z: {"logits": z, "units": y.shape[-1]},
    "a shape": lambda y, z: (z, y.shape),
    "a quotient": lambda y, z: (z, 1 / y.shape[-1]),
    "a text": lambda y, z: (z, f"{y.shape[-1]} units"),
    "a key": lambda y, z: {y.shape[-1]: z},
    "a key of text": lambda y, z: {f"from {y.shape[-1]}": z},
    "None": lambda y, z: (None, z),
    "a number format": lambda y, z: (z, y.dtype, y.device),
}


def heads(y: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    return attend(y.unflatten(-1, (3, 4)).transpose(1, 2)).transpose(1, 2).flatten(2)


def never_wrong_in_silence(model: nn.Module, x: Tensor, by_hooks: bool = True) -> str:
    """Cut at random and compare; the sentence of a refusal, or how it was cut."""
    # the reference's hooks know norms that are modules; of others only the engine's account says what silenced is
    torch.manual_seed(0)
    randomise(model.eval())
    done = []
    try:
        structure = analyze(model, x[:1])
        for seed in range(3):
            plan = random_plan(structure, seed)
            small = prune(structure, model, plan).eval()
            for inputs in (x, x[:1], torch.cat([x, 2 * x])):
                with torch.no_grad():
                    assert relative_error(small(inputs), silence(structure, model, plan)(inputs)) < 1e-5
                    if by_hooks:
                        wanted = silenced(model, structure.tensor_masks(plan), inputs)(inputs)
                        assert relative_error(small(inputs), wanted) < 1e-5
            done.append(type(small).__name__ if structure.groups else "frozen")
    except MvpError as refusal:
        print(refusal)
        return str(refusal)
    print(*done)
    return " ".join(done)


def cases(*tables: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("use", [pytest.param(u, id=name) for table in tables for name, u in table.items()])


@cases(NUMBERS, LOUD, KEYWORDS)
def test_never_wrong_in_silence(use: Callable[[Any, Tensor], Tensor]) -> None:
    never_wrong_in_silence(Net(use), TOKENS)


@cases(NORMS)
def test_norms_are_never_wrong_in_silence(use: Callable[[Any, Tensor], Tensor]) -> None:
    never_wrong_in_silence(Net(use), TOKENS, by_hooks=False)


@cases(OUTPUTS)
def test_nothing_that_is_returned_changes_in_silence(use: Callable[[Tensor, Tensor], Any]) -> None:
    model = Returns(use).eval()
    try:
        structure = analyze(model, TOKENS)
        small = prune(structure, model, random_plan(structure, 0))
    except MvpError as refusal:
        print(refusal)
        return
    for got, wanted in zip(leaves_in(small(TOKENS)), leaves_in(model(TOKENS)), strict=True):
        assert got.shape == wanted.shape if isinstance(wanted, Tensor) else got == wanted


CACHE: dict[Any, Any] = {}


@functools.lru_cache
def positions(count: int) -> Tensor:
    return torch.arange(count).float().unsqueeze(-1)


class Keeps(Net):
    last: Any = None


CACHES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "lru_cache": lambda m, y: y * positions(y.shape[1]),
    "a dictionary": lambda m, y: y * CACHE.setdefault(y.shape[1], torch.arange(y.shape[1])).unsqueeze(-1),
    "a list in a dictionary": lambda m, y: y * CACHE.setdefault("ones", [y.new_ones(5, 1), y.new_ones(5, 1)])[1],
    "an attribute of its class": lambda m, y: kept(type(m), y),
}


def kept(owner: Any, y: Tensor) -> Tensor:
    if owner.last is None:
        owner.last = y.new_ones(5, 1)
    return y * owner.last


@cases(CACHES)
def test_a_cache_outside_the_model_keeps_no_fake_tensors(use: Callable[[Any, Tensor], Tensor]) -> None:
    CACHE.clear()
    positions.cache_clear()
    Keeps.last = None
    model = Keeps(use).eval()
    structure = analyze(model, TOKENS)
    assert model(TOKENS).norm() > 0  # on fakes it would have no value
    CACHE.clear()
    positions.cache_clear()
    Keeps.last = None
    small = prune(structure, model, random_plan(structure, 0))
    assert small(TOKENS).norm() > 0
    assert model(TOKENS).norm() > 0


def test_silencing_leaves_the_model_s_state_alone() -> None:
    def count(m: Any, y: Tensor) -> Tensor:
        m.runs.add_(1)
        return y / m.runs

    model = Net(count).eval()
    model.register_buffer("runs", torch.zeros(()))
    structure = analyze(model, TOKENS)
    silence(structure, model, random_plan(structure, 0))(TOKENS)
    assert model.runs == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda y: y * (1 / y.shape[1] if y.shape[2] > 32 else 1.0),
        lambda y: y * (1 / y.shape[1] if len(y) > 3 else 1.0),
    ],
    ids=["larger images", "larger batches"],
)
def test_a_size_that_only_other_images_use_as_a_number_is_seen(use: Callable[[Tensor], Tensor]) -> None:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(use(self.conv(x)).mean((2, 3)))

    model = Images().eval()
    structure = analyze(model, torch.zeros(1, 3, 16, 16))
    with pytest.raises(MvpError, match=r"would differ|takes inputs of shape"):
        prune(structure, model, random_plan(structure, 0))(torch.zeros(5, 3, 40, 40))


def test_an_object_that_no_program_can_hold_is_refused() -> None:
    generator = torch.Generator()
    model = Net(lambda m, y: y * (1.0 / y.shape[-1]) + torch.zeros(1).normal_(generator=generator.manual_seed(1)))
    structure = analyze(model.eval(), TOKENS)
    with pytest.raises(MvpError, match="a program cannot hold"):
        prune(structure, model, random_plan(structure, 0))


@pytest.mark.parametrize("compiled", [torch.jit.script, lambda model: torch.jit.trace(model, TOKENS)])
def test_torchscript_modules_are_refused(compiled: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(compiled(nn.Sequential(nn.Linear(6, 8), nn.ReLU())), nn.Linear(8, 3))
    with pytest.raises(MvpError, match="0 is a TorchScript module"):
        analyze(model, TOKENS)


@pytest.mark.parametrize("allow_inexact", [False, True])
def test_a_mistaken_rule_is_caught_by_comparison(monkeypatch: pytest.MonkeyPatch, allow_inexact: bool) -> None:
    monkeypatch.setitem(OPERATORS, "flip", OPERATORS["clone"])
    model = Net(lambda m, y: y.flip(-1) + y.mean(-1, keepdim=True) if allow_inexact else y.flip(-1)).eval()
    structure = analyze(model, TOKENS, allow_inexact=allow_inexact)
    plan = random_plan(structure, 0)
    with pytest.raises(MvpError, match="would differ") as refusal:
        prune(structure, model, plan)
    assert refusal.value.code is ExitCode.PARITY
    assert prune(structure, model, plan, check=False)


def test_what_inexact_removal_explains_is_not_refused() -> None:
    model = randomise(Net(lambda m, y: y + y.mean(-1, keepdim=True)).eval())
    structure = analyze(model, TOKENS, allow_inexact=True)
    plan = random_plan(structure, 0)
    small = prune(structure, model, plan)
    with torch.no_grad():
        assert relative_error(small(TOKENS), silence(structure, model, plan)(TOKENS)) > 1e-3
        assert relative_error(small(TOKENS), silence(structure, model, plan, inexact=True)(TOKENS)) < 1e-5


def test_weights_that_start_at_zero_hide_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "flip", OPERATORS["clone"])
    model = Net(lambda m, y: y.flip(-1)).eval()
    nn.init.zeros_(model.head.weight)
    structure = analyze(model, TOKENS)
    with pytest.raises(MvpError, match="would differ"):
        prune(structure, model, random_plan(structure, 0))


def test_a_size_used_as_a_number_is_named() -> None:
    model = Net(lambda m, y: y * (1.0 / y.shape[-1])).eval()
    structure = analyze(model, TOKENS)
    small = prune(structure, model, random_plan(structure, 0))
    assert isinstance(small, torch.fx.GraphModule)
    assert "gives mul in the model the number 0.125, the full model 0.0833333" in small.why
