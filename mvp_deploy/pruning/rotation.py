"""Linear streams in their principal directions: the same function, with channels of which the weak ones go almost free.

Ashkboos et al. 2024, "SliceGPT" (arXiv 2401.15024), do this to transformers' streams; here every linear stream is
rotated (see structure/streams.py), once, before anything is pruned: what comes out is an ordinary backbone with other
weights, whose units are counted and voted on like any other's.

A LayerNorm takes the mean over channels, so the stream it reads is rotated only so that the sum of channels stays what
it was, Q 1 = 1: then LayerNorm(Q x) = Q LayerNorm(x), and the layer stays a LayerNorm.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from mvp_deploy.backbones.backbone import Backbone, build, digest
from mvp_deploy.base.errors import ParityError
from mvp_deploy.pruning import moments
from mvp_deploy.pruning.linear import linear_layers
from mvp_deploy.pruning.moments import Moments
from mvp_deploy.pruning.spectrum import eigenvectors
from mvp_deploy.structure import Structure, analyze
from mvp_deploy.structure.streams import LayerNorm, Maker, Reader, Stream, linear_streams
from mvp_deploy.tasks import Images

TOLERANCE = 1e-5
BATCH = 64
SMALL = 1e-3  # of the largest: a LayerNorm's weight by which its bias is not divided


def rotate(
    backbone: Backbone,
    state: Mapping[str, Tensor],
    images: Images,
    *,
    num_classes: int = 2,
    seed: int = 0,
) -> tuple[Backbone, dict[str, Tensor]]:
    """A backbone whose linear streams are in principal directions: the same features, other units.

    Args:
        images: that show the directions; labels are not read. At most 256 are taken, drawn by ``seed``.
        num_classes: of the head in ``state``, where it has one.

    Raises:
        MvpError: (PARITY) the rotated backbone computes something else.
    """
    model, structure = _analysed(backbone, state, num_classes)
    found = rotated(model.to(images.device), structure, images, seed=seed)
    turned = {name: value.cpu() for name, value in found.items() if name in state}
    if all(torch.equal(value, state[name]) for name, value in turned.items()):
        return backbone, turned  # it has no linear stream
    return replace(backbone, weights=f"{backbone.weights}, streams rotated", weights_sha256=digest(turned)), turned


def has_streams(backbone: Backbone, state: Mapping[str, Tensor]) -> bool:
    """Whether the backbone has linear streams that `rotate` turns."""
    return bool(_turnable(*_analysed(backbone, state, 2)))


def rotated(model: nn.Module, structure: Structure, images: Images, *, seed: int = 0) -> dict[str, Tensor]:
    """The state dict with which ``model`` computes what it does, in the principal directions of its linear streams.

    Args:
        model: in eval mode. images: see `rotate`.

    Returns:
        On the CPU; the model's own state dict if it has no linear stream.

    Raises:
        MvpError: (PARITY) the rotated model computes something else, or cannot be compared in float64.
    """
    streams = _turnable(model, structure)
    if not streams:
        return {name: value.cpu().clone() for name, value in model.state_dict().items()}
    sample = list(images.sample(BATCH, 256 // BATCH, seed))
    wanted = {m.weight for s in streams for m in s.makers} | {r.weight for s in streams for r in s.readers}
    layers = {name: layer for name, layer in linear_layers(model, structure.example).items() if name in wanted}
    seen = moments.collect(model, layers, sample, sum(len(y) for _, y in sample))
    state = turned(model.state_dict(), {s: directions(s, seen, model.state_dict()) for s in streams}, seen)
    check(model, state, sample[0][0][:8])
    return state


def directions(stream: Stream, seen: Mapping[str, Moments], state: Mapping[str, Tensor]) -> Tensor:
    """The stream's rotation Q, float64 [size, size]: its rows are principal directions, strongest first.

    Of the readers' inputs, each of equal weight, centred (what is constant goes into biases). Under a LayerNorm they
    are mixed by the reflection that makes Q 1 = 1, which adds to each channel a share of the sum of all that the
    LayerNorm takes out again.
    """
    total = torch.zeros(stream.size, stream.size, dtype=torch.float64)
    for reader in stream.readers:
        covariance = _covariance(seen[reader.weight], stream.size)
        gain = _vector(state, reader.norm.weight if reader.norm else None, stream.size, 1.0)
        gain = torch.where(gain.abs() > SMALL * gain.abs().max(), gain, torch.inf)
        covariance = covariance / gain / gain[:, None]
        total += covariance / covariance.trace().clamp_min(1e-30)
    if not stream.normed:
        return eigenvectors(total).flip(1).T
    one = torch.ones(stream.size, dtype=torch.float64) / stream.size**0.5
    flat = torch.eye(stream.size, dtype=torch.float64) - torch.outer(one, one)
    principal = eigenvectors(flat @ total @ flat - torch.outer(one, one)).flip(1).T  # the mean comes last
    principal[-1] = one
    last = torch.zeros_like(one)
    last[-1] = 1
    mirror = last - one
    return principal - 2 * torch.outer(mirror, mirror @ principal) / mirror.square().sum()


def turned(
    state: Mapping[str, Tensor], turns: Mapping[Stream, Tensor], seen: Mapping[str, Moments]
) -> dict[str, Tensor]:
    """The state dict in a new basis of each stream: x' = Q x.

    Batch norms after the makers stay batch norms, with the statistics that the new channels have.
    """
    state = {name: value.cpu() for name, value in state.items()}
    new = {name: value.double() if value.is_floating_point() else value.clone() for name, value in state.items()}
    for stream, turn in turns.items():
        norms = {reader.norm for reader in stream.readers if reader.norm}
        only_norms = all(reader.norm for reader in stream.readers)
        write = turn - turn.mean(1, keepdim=True) if norms and only_norms else turn  # LayerNorms ignore the mean
        for maker in stream.makers:
            _write(new, state, maker, write, seen[maker.weight])
        for offset in stream.offsets:
            new[offset.tensor] = (new[offset.tensor].movedim(offset.dim, -1) @ write.T).movedim(-1, offset.dim)
        for norm in norms:
            _unload(new, norm, [reader for reader in stream.readers if reader.norm == norm], turn)
        for reader in stream.readers:
            new[reader.weight] = torch.tensordot(new[reader.weight], torch.linalg.inv(turn), ([1], [0])).movedim(-1, 1)
    return {name: value.to(state[name].dtype) for name, value in new.items()}


def check(model: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> float:
    """Compare ``model`` with itself under another state dict on images ``x``, in float64 on the CPU.

    Returns:
        The largest difference relative to the largest output.

    Raises:
        MvpError: (PARITY) it is 1e-5 or more, or the model cannot compute in float64.
    """
    before, after = (copy.deepcopy(model).cpu().double().eval() for _ in range(2))
    after.load_state_dict(state)
    try:
        with torch.no_grad():
            expected, got = before(x.cpu().double()), after(x.cpu().double())
    except RuntimeError as failure:  # a module of one's own may keep tensors in float32
        raise ParityError(f"A rotated {type(model).__name__} cannot be checked in float64: {failure}") from failure
    error = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not error < TOLERANCE:
        raise ParityError(
            f"The rotated {type(model).__name__} differs from the original by {error:.1e} (limit {TOLERANCE:.0e}), so "
            "it was not saved. Its architecture is not handled exactly: please report it.",
        )
    return error


def _analysed(backbone: Backbone, state: Mapping[str, Tensor], num_classes: int) -> tuple[nn.Module, Structure]:
    model = build(backbone, state, num_classes)
    example = torch.zeros(2, *backbone.preprocessing.input_size)
    return model, analyze(model, example, allow_inexact=backbone.allow_inexact)


def _turnable(model: nn.Module, structure: Structure) -> list[Stream]:
    state = model.state_dict()
    return [stream for stream in linear_streams(model, structure) if _foldable(stream, state)]


def _write(new: dict[str, Tensor], state: Mapping[str, Tensor], maker: Maker, turn: Tensor, seen: Moments) -> None:
    """Fold the rotation, and what scales the maker's outputs, into its weight."""
    size = len(turn)
    gain, shift = torch.ones_like(turn[0]), torch.zeros_like(turn[0])
    if maker.norm:
        weight, bias, mean, variance = (
            new[name].clone() for name in (maker.norm.weight, maker.norm.bias, maker.norm.mean, maker.norm.variance)
        )
        gain = weight / (variance + maker.norm.epsilon).sqrt()
        shift = bias - gain * mean
    if maker.scale:
        scale = new[maker.scale].flatten()
        gain, shift = gain * scale, shift * scale
        new[maker.scale] = torch.ones_like(new[maker.scale])
    turn_gain = turn * gain
    new[maker.weight] = torch.tensordot(turn_gain, new[maker.weight], ([1], [0]))
    if maker.bias:
        new[maker.bias] = turn_gain @ new[maker.bias] + (0 if maker.norm else turn @ shift)
    if maker.norm:
        own = state[maker.weight].double().reshape(size, -1)
        constant = state[maker.bias].double() if maker.bias else torch.zeros_like(shift)
        products = seen.products[0].double().cpu()
        products = products / products[-1, -1].clamp_min(1)
        given = products[:-1, -1]
        covariance = products[:-1, :-1] - torch.outer(given, given)
        mean = turn_gain @ (own @ given + constant)
        variance = ((turn_gain @ own) @ covariance * (turn_gain @ own)).sum(1).clamp_min(0).float().double()
        new[maker.norm.mean], new[maker.norm.variance] = mean, variance
        new[maker.norm.weight] = (variance + maker.norm.epsilon).sqrt()
        new[maker.norm.bias] = turn @ shift + mean


def _unload(new: dict[str, Tensor], norm: LayerNorm, readers: list[Reader], turn: Tensor) -> None:
    """Take a LayerNorm's weight and bias over into its readers, as far as they have biases."""
    gain = _vector(new, norm.weight, len(turn), 1.0)
    bias = _vector(new, norm.bias, len(turn), 0.0)
    if norm.bias:
        if all(reader.bias and new[reader.weight].ndim == 2 for reader in readers):
            for reader in readers:
                new[reader.bias] = new[reader.bias] + new[reader.weight] @ bias  # type: ignore[index]
            new[norm.bias] = torch.zeros_like(bias)
        else:
            new[norm.bias] = turn @ (bias / gain)
    if norm.weight:
        for reader in readers:
            new[reader.weight] = new[reader.weight] * gain.reshape(1, -1, *[1] * (new[reader.weight].ndim - 2))
        new[norm.weight] = torch.ones_like(gain)


def _foldable(stream: Stream, state: Mapping[str, Tensor]) -> bool:
    """Whether what its makers and LayerNorms add has somewhere to go."""
    for reader in stream.readers:
        if reader.norm and reader.norm.bias and not (reader.bias and state[reader.weight].ndim == 2):
            gain = _vector(state, reader.norm.weight, stream.size, 1.0).abs()
            if gain.min() <= SMALL * gain.max():
                return False
    return True


def _covariance(seen: Moments, size: int) -> Tensor:
    """Of the stream's channels in a reader's inputs, over places and the places of its kernel: [size, size]."""
    products = seen.products[0].double().cpu()
    products = products / products[-1, -1].clamp_min(1)
    mean = products[-1, :-1]
    covariance = products[:-1, :-1] - torch.outer(mean, mean)
    return covariance.reshape(size, len(mean) // size, size, -1).diagonal(dim1=1, dim2=3).sum(-1)


def _vector(state: Mapping[str, Tensor], name: str | None, size: int, default: float) -> Tensor:
    return state[name].double().cpu() if name else torch.full((size,), default, dtype=torch.float64)
