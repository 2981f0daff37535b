"""Comparing a smaller model with the full one whose removed units are silenced, on seeded inputs.

The analysis knows operators, and trusts that it has seen everything. Nothing is trusted here: both models run, with
weights under which an error shows (a scale that training starts at zero would hide whatever it multiplies), in
float64 where they can, so that rounding lies far below the limit. Image models run at the two smallest of a few image
sizes that they take, so that the comparison costs about as much as a few small images, whatever the model is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from mvp_deploy.base.errors import MvpError, ParityError, StructureError
from mvp_deploy.structure.caches import Noted, caches_restored
from mvp_deploy.structure.calls import leaves_in
from mvp_deploy.structure.cut import gather
from mvp_deploy.structure.fakes import copy_with, named_tensors
from mvp_deploy.structure.graph import TracedModel
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.silence import silence
from mvp_deploy.structure.structure import Structure

LIMITS = {torch.float64: 1e-6, torch.float32: 1e-3}
"""The largest difference taken for rounding, relative to the largest output, per number format of the comparison."""
THUMBNAIL = 72
"""Edge in pixels up to which another image size costs next to nothing."""
LARGE = 100_000_000
"""From so many parameters on models are compared in float32, to save memory."""


@caches_restored()
def check(structure: Structure, model: nn.Module, plan: KeepPlan, small: nn.Module) -> None:
    """Compare `small`, which `plan` made of `model`, with the silenced model; nothing is changed.

    Raises:
        MvpError: (PARITY) they differ, or cannot be run.
    """
    shapes = list(_shapes(structure.example, any_size=not isinstance(small, TracedModel)))
    try:
        error, limit = _compared(structure, model, plan, small, shapes)
    except _CannotRun as failure:
        raise ParityError(
            f"The smaller {type(model).__name__} cannot be compared with the full one, which fails on random inputs: "
            f"{failure} If you know that it is right, prune with check=False.",
        ) from failure
    if not error < limit:
        raise ParityError(
            f"The smaller {type(model).__name__} would differ from the full one with those units silenced, by "
            f"{error:.1e} of the largest output, so it is not returned. Its forward does something with sizes or "
            "silent units that the analysis does not see: please report it.",
        )


@caches_restored()
def takes_other_sizes(structure: Structure, model: nn.Module, plan: KeepPlan, small: nn.Module) -> bool:
    """Whether a recorded program computes the same at other image sizes than the example's, which the model takes."""
    own = [tuple(t.shape[1:]) for t in structure.example]
    others = [s for s in _shapes(structure.example, any_size=True) if [shape[1:] for shape in s] != own]
    try:
        error, limit = _compared(structure, model, plan, small, others)
    except (_CannotRun, MvpError):
        return False
    return error < limit


class _CannotRun(Exception):
    """The full model cannot be run so."""


def _compared(
    structure: Structure, model: nn.Module, plan: KeepPlan, small: nn.Module, shapes: Sequence[list[tuple[int, ...]]]
) -> tuple[float, float]:
    """The largest difference between outputs, and the largest that rounding explains: in float64 where that runs."""
    large = sum(p.numel() for p in model.parameters()) >= LARGE
    if not large:
        with suppress(_CannotRun):
            return _difference(structure, model, plan, small, torch.float64, shapes), LIMITS[torch.float64]
    return _difference(structure, model, plan, small, torch.float32, shapes), LIMITS[torch.float32]


def _difference(
    structure: Structure,
    model: nn.Module,
    plan: KeepPlan,
    small: nn.Module,
    dtype: torch.dtype,
    shapes: Iterable[list[tuple[int, ...]]],
) -> float:
    """The largest difference between outputs, relative to the largest output."""
    generator = torch.Generator().manual_seed(0)
    state = {name: _seeded(tensor, dtype, generator) for name, tensor in named_tensors(model)}
    full = copy_with(model, {id(tensor): state[name] for name, tensor in named_tensors(model)}).eval()
    cut = gather(structure, state, plan)
    twin = copy_with(
        small,
        {id(tensor): _like(tensor, cut.get(name, tensor), dtype) for name, tensor in named_tensors(small)},
    ).eval()
    silenced = silence(structure, full, plan, inexact=True)
    differences: list[float] = []
    failure: Exception | None = None
    for tried in shapes:
        inputs = [_input(shape, t.dtype, dtype, generator) for shape, t in zip(tried, structure.example, strict=True)]
        try:
            wanted = _run(silenced, inputs)
        except Exception as error:  # whatever a model raises at a size that it does not take
            failure = error
            continue
        differences.append(_compare(twin, inputs, wanted))
        if len(differences) == 2 and max(tried[0][2:], default=0) > THUMBNAIL:
            break
    if not differences:
        raise _CannotRun(f"{type(failure).__name__}: {failure}.") from failure
    return max(differences)


def _run(model: Any, inputs: list[Tensor]) -> list[Any]:
    """What lies in its output: tensors, and numbers and texts beside them."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), Noted():
        torch.manual_seed(0)
        return list(leaves_in(model(*(t.clone() for t in inputs))))


def _compare(small: nn.Module, inputs: list[Tensor], wanted: list[Any]) -> float:
    try:
        got = _run(small.forward if isinstance(small, TracedModel) else small, inputs)  # called, fx prints its failures
    except Exception as error:
        shape = list(inputs[0].shape)
        raise StructureError(
            f"The smaller model fails on an input of shape {shape}, the full one does not: {error}"
        ) from error
    if len(got) != len(wanted):
        return torch.inf
    return max((_relative(a, b) for a, b in zip(got, wanted, strict=True)), default=torch.inf)


def _relative(got: Any, wanted: Any) -> float:
    if not isinstance(got, Tensor) or not isinstance(wanted, Tensor):
        return 0.0 if type(got) is type(wanted) and got == wanted else torch.inf
    if got.shape != wanted.shape:
        return torch.inf
    got, wanted = (t.double() if not t.is_complex() else torch.view_as_real(t).double() for t in (got, wanted))
    usual = wanted.isfinite()
    if not torch.equal(got[~usual].nan_to_num(), wanted[~usual].nan_to_num()) or not usual.any():
        return torch.inf
    return float((got - wanted)[usual].abs().max() / wanted[usual].abs().max().clamp_min(1e-30))


def _seeded(tensor: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """A copy on the CPU; parameters that are vectors, or all about the same, get noise that errors show up in."""
    out = torch.ones(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach().cpu().clone()
    out = out.to(dtype) if out.is_floating_point() else out
    if not isinstance(tensor, nn.Parameter):
        return out
    if out.is_floating_point():
        natural = (len(out) / out.numel()) ** 0.5 if out.ndim > 1 and out.numel() else 0.3  # one over fan-in
        if out.ndim < 2 or not out.std() > 0.1 * natural:
            noise = torch.randn(out.shape, dtype=dtype, generator=generator)
            out = (0 if tensor.is_meta and out.ndim > 1 else out) + min(0.3, natural) * noise
    return nn.Parameter(out, requires_grad=False)


def _like(tensor: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach().cpu()
    value = value.to(dtype) if value.is_floating_point() else value
    return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value.clone()


def _input(shape: tuple[int, ...], own: torch.dtype, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if own.is_floating_point:
        return torch.randn(shape, dtype=dtype, generator=generator)
    if own.is_complex:
        return torch.randn(shape, dtype=own, generator=generator)
    return torch.randint(0, 2, shape, generator=generator).to(own)


def _shapes(example: tuple[Tensor, ...], any_size: bool) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the inputs to try: small images first, then the example's own, in batches of several sizes."""
    own = [tuple(t.shape) for t in example]
    image = next((s[-2:] for s, t in zip(own, example, strict=True) if len(s) == 4 and t.is_floating_point()), None)
    sizes: list[tuple[int, ...]] = []
    if image is not None and any_size:
        sizes = [image, *((image[0] * n // 2, image[1] * n // 2) for n in (3, 5))]
        sizes = [(64, 64), (96, 96)] if min(image) > 96 else sizes
    for batch, size in zip((5, 2, 3), [*sizes, *([image] if image not in sizes else [])] or [None], strict=False):
        yield [(batch, *_resized(shape, image, size)[1:]) if shape else shape for shape in own]
    yield own


def _resized(shape: tuple[int, ...], image: tuple[int, ...] | None, size: tuple[int, ...] | None) -> tuple[int, ...]:
    return (*shape[:-2], *size) if size is not None and len(shape) == 4 and shape[-2:] == image else shape
