"""Making up for what was cut, in closed form: layers are re-solved to give what the unpruned ones gave.

The full model and the smaller one walk side by side over the same images, layer after layer. Each linear layer of the
smaller one is solved by ridge regression from the inputs it now gets to the outputs the full one has (Luo et al. 2017,
"ThiNet", arXiv 1707.06342; He et al. 2017, "Channel Pruning", arXiv 1707.06168), pulled towards its cut weights, and
goes on with the new ones. Only second moments of one layer at a time are kept. The penalty is chosen, output by
output, by the error on images left out; an output that no penalty improves there keeps its cut weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.base.devices import full_float32
from mvp_deploy.base.errors import InputError
from mvp_deploy.pruning.biases import give_biases
from mvp_deploy.pruning.linear import LinearLayer, linear_layers
from mvp_deploy.pruning.moments import CrossMoments, draw_places, with_constant
from mvp_deploy.pruning.walk import Stop, walk
from mvp_deploy.structure import KeepPlan, Structure
from mvp_deploy.tasks import Images

PENALTIES = (1e-8, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # relative to the inputs' mean square: from none to all
FEW, MANY = 256, 1024  # images that re-solve models which are compared, and the one that goes on
FOLDS = 4  # parts of the images; each is left out once
WIDE = 2048  # columns from which on there are two parts
BATCH = 32
MEMORY = 1 << 20  # bytes that standing passes may hold, for each image to re-solve on: else fewer set out


@dataclass(frozen=True)
class Solved:
    """A layer's error on images left out, before and after: of its outputs' spread (1: no better than their mean)."""

    weight: str
    before: float
    after: float
    changed: float  # share of its outputs that were re-solved; 0: it keeps its cut weights


@dataclass(frozen=True)
class Reconstruction:
    """What was re-solved, layer by layer in the order they run, and on how many images."""

    layers: tuple[Solved, ...]
    images: int


@full_float32()
def reconstruct(
    full: nn.Module,
    structure: Structure,
    plan: KeepPlan,
    model: nn.Module,
    images: Images,
    *,
    most: int = FEW,
    skip: Sequence[str] = (),
    seed: int = 0,
) -> Reconstruction:
    """Re-solve, in place, the linear layers of ``model``, which is ``full`` cut by ``plan``.

    These are the layers that lost inputs, and where whole blocks went all that run after the first of them, but for
    convolutions in groups. Those with neither a bias nor a batch norm after them get a new bias (see `biases`).

    Args:
        images: of the task or any like it; labels are not read. At most ``most`` are taken, drawn by ``seed``.
        skip: weights of layers to leave alone.

    Raises:
        MvpError: the two models do not run the same layers in the same order.
    """
    layers, small = linear_layers(full, structure.example), linear_layers(model, structure.example)
    masks, gone = structure.tensor_masks(plan), structure.gone(plan.without)
    later = _after(layers, gone)
    lost = {
        name
        for name, layer in small.items()
        if name in layers
        and (layer.columns != layers[name].columns or (name in later and layer.groups == 1))
        and layer.calls == 1
        and name not in skip
    }
    if min(most, len(images)) > 1:  # of one image none can be left out
        small = dict(give_biases(model, small, lost, structure.example))
    generator = torch.Generator().manual_seed(seed)
    full.eval()
    model.eval()
    solved, count = [], 0
    with torch.no_grad(), ExitStack() as stack:

        def begin(x: Tensor) -> _Walks:
            there = _past(stack.enter_context(walk(full, layers, x)), gone)
            return _Walks(len(x), there, stack.enter_context(walk(model, small, x)))

        room = _room(layers, most)
        batches = _sample(images, most, min(BATCH, *room.values()), seed)
        for stops in _abreast(batches, begin, room):
            layer = stops[0].here.layer
            count = sum(each.images for each in stops)
            if layer.weight not in lost or count < 2:
                continue
            at = draw_places(layer, stops[0].here.input, count, generator)
            solved.append(_solve(full, model, masks[layer.weight][0], stops, at))
    return Reconstruction(tuple(solved), count)


def _after(layers: Mapping[str, LinearLayer], gone: Collection[str]) -> set[str]:
    """The layers that run after the first of those that are gone."""
    names = list(layers)
    first = next((place for place, name in enumerate(names) if name in gone), len(names))
    return set(names[first:])


def _past(stops: Iterator[Stop], gone: Collection[str]) -> Iterator[Stop]:
    """A walk that does not stop at layers the smaller model lacks."""
    return filter(lambda stop: stop.layer.weight not in gone, stops)


class _Walks(NamedTuple):
    """Of both models over a batch of so many images."""

    images: int
    there: Iterator[Stop]
    here: Iterator[Stop]


class _Stops(NamedTuple):
    """A batch before the same layer of both models."""

    images: int
    there: Stop  # in the full model
    here: Stop


def _abreast(
    batches: Iterator[Tensor], begin: Callable[[Tensor], _Walks], room: Mapping[str, int]
) -> Iterator[list[_Stops]]:
    """Both models' walks over all batches, one layer at a time.

    A walk holds what its model still needs, which is most at a net's first layers. So few batches set out, and others
    follow as soon as the layers to come leave room for twice as many: walks hold more than inputs. Later layers read
    more columns and so are solved on more images.

    Args:
        batches: images float32 [b, 3, H, W].
        begin: starts the walks over a batch.
        room: for how many images there is room from a layer on, by its weight.
    """
    walks: list[_Walks] = []
    passed, waiting = 0, next(batches, None)
    while True:
        stops = [found for each in walks if (found := _next(each))]
        if walks and not stops:
            return
        space = room[stops[0].there.layer.weight] // 2 if stops else min(room.values())
        while waiting is not None and sum(each.images for each in walks) + len(waiting) <= space:
            walks.append(begin(waiting))
            for _ in range(passed):
                _next(walks[-1])
            stops += [found for each in walks[-1:] if (found := _next(each))]
            waiting = next(batches, None)
        if not stops:
            return
        yield stops
        stops.clear()  # the walks alone decide how long a layer's inputs are needed
        passed += 1


def _next(walks: _Walks) -> _Stops | None:
    """Where a batch stops next; None at its end."""
    there, here = next(walks.there, None), next(walks.here, None)
    if there is None and here is None:
        return None
    if there is None or here is None or there.layer.weight != here.layer.weight:
        raise InputError(
            "The smaller model runs its layers in another order than the full one, so they cannot be re-solved: "
            "use --set reconstruct=false, and please report the architecture."
        )
    return _Stops(walks.images, there, here)


def _solve(
    full: nn.Module, model: nn.Module, kept: np.ndarray | None, stops: Sequence[_Stops], at: Tensor | None
) -> Solved:
    """Re-solve one layer of ``model`` in place; ``kept`` are the outputs of the full one's that stay."""
    layer, reference = stops[0].here.layer, full.get_parameter(stops[0].here.layer.weight)
    weight = model.get_parameter(layer.weight)
    cut = layer.matrix(weight)
    constant = _constant(full, model, kept, stops[0]).reshape(cut.shape[:2])
    start = torch.cat([cut, constant[:, :, None]], 2).double()
    parts: list[CrossMoments] = []
    for images, there, here in stops:
        x = with_constant(_precise(layer.inputs(here.input, at)))
        y = _outputs(there, reference, kept, layer.groups, at)
        for fold, own in enumerate(_folds(images, layer.columns)):
            moments = CrossMoments.of(_of_images(x, images, own), _of_images(y, images, own))
            parts[fold : fold + 1] = [parts[fold] + moments if fold < len(parts) else moments]
    movable = layer.bias is not None or layer.norm is not None
    solution, before, after, changed = _cross_validated(parts, start, movable)
    weight.copy_(solution[:, :, :-1].reshape(weight.shape))
    if layer.bias is not None:
        model.get_parameter(layer.bias).copy_(solution[:, :, -1].flatten())
    elif layer.norm is not None:
        model.get_buffer(layer.norm).sub_((solution[:, :, -1] - start[:, :, -1]).flatten())
    return Solved(layer.weight, before, after, changed)


def _constant(full: nn.Module, model: nn.Module, kept: np.ndarray | None, stops: _Stops) -> Tensor:
    """What the layer of ``model`` adds to each of its outputs, as the full model's layer and norm would count it.

    A layer without a bias that was re-solved before adds what it took from the mean of the norm that follows.
    """
    here, there = stops.here.layer, stops.there.layer
    bias = stops.here.bias
    constant = model.get_parameter(here.weight).new_zeros(here.outputs) if bias is None else bias
    if here.bias is not None or here.norm is None or there.norm is None:
        return constant
    mean = full.get_buffer(there.norm)
    mean = mean if kept is None else mean[torch.from_numpy(kept).to(mean.device)]
    return constant + mean - model.get_buffer(here.norm)


def _cross_validated(
    parts: Sequence[CrossMoments], start: Tensor, constant: bool
) -> tuple[Tensor, float, float, float]:
    """The weights, their error on parts left out before and after, and the share of outputs that changed."""
    total = sum(parts[1:], parts[0])
    before = total.error(start)

    def errors_of(part: CrossMoments) -> Tensor:
        """On a part, of what the others give: [penalties, groups, outputs]."""
        return torch.stack([part.error(weight) for weight in (total - part).ridge(PENALTIES, start, constant=constant)])

    errors = sum(map(errors_of, parts[1:]), errors_of(parts[0]))
    least, which = errors.nan_to_num(nan=torch.inf).min(0)
    better = least < before
    solution = start.clone()
    for place, penalty in enumerate(PENALTIES):
        chosen = better & (which == place)
        if chosen.any():
            (whole,) = total.ridge([penalty], start, constant=constant)
            solution = torch.where((chosen & whole.isfinite().all(2))[:, :, None], whole, solution)
    spread = float(total.spread.sum()) or 1.0
    after = torch.where(better, least, before)
    return solution, float(before.sum()) / spread, float(after.sum()) / spread, float(better.double().mean())


def _outputs(there: Stop, reference: Tensor, kept: np.ndarray | None, groups: int, at: Tensor | None) -> Tensor:
    """What the full model's layer gives, of the outputs that stay: [groups of the smaller layer, n, outputs/groups]."""
    y = _precise(there.layer.inputs(there.input, at)) @ _precise(there.layer.matrix(reference)).mT
    y = y.transpose(0, 1).flatten(1)
    y = y if there.bias is None else y + there.bias
    y = y if kept is None else y[:, torch.from_numpy(kept).to(y.device)]
    return y.reshape(len(y), groups, -1).transpose(0, 1)


def _folds(images: int, columns: int) -> list[Tensor]:
    """The images of a batch that are left out together; fewer parts where one takes much memory."""
    folds = FOLDS if columns <= WIDE else 2
    return [torch.tensor(range(fold, images, folds), dtype=torch.int64) for fold in range(folds)]


def _of_images(rows: Tensor, images: int, which: Tensor) -> Tensor:
    """The rows, [groups, images x n, columns], of some images."""
    return rows.unflatten(1, (images, -1))[:, which.to(rows.device)].flatten(1, 2)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _sample(images: Images, most: int, batch: int, seed: int) -> Iterator[Tensor]:
    """At most ``most`` images in batches, float32 [b, 3, H, W], drawn by ``seed``."""
    for x, _ in images.sample(batch, -(-most // batch), seed):
        yield x[:most]
        most -= len(x)


def _room(layers: dict[str, LinearLayer], most: int) -> dict[str, int]:
    """For how many images there is room from each layer on: each holds about the largest input to come, twice."""
    room, largest = {}, 1
    for name in reversed(layers):
        largest = max(largest, layers[name].reads)
        room[name] = max(FOLDS, most * MEMORY // (2 * 4 * largest))
    return room
