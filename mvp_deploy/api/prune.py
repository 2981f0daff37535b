"""`mvp.prune`, and the parts it is made of, for one's own loop."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mvp_deploy import backbones, structure
from mvp_deploy.api.budget import budget_of, in_time, target_of
from mvp_deploy.api.data import as_task, held_out_images, training_images
from mvp_deploy.backbones import Backbone
from mvp_deploy.backbones.backbone import preprocessing_of, recognise
from mvp_deploy.backbones.conventions import restate_sizes
from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import InputError
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Met
from mvp_deploy.pruning import knapsack, reconstruction
from mvp_deploy.pruning.budget import Budget, keep_best, units_kept
from mvp_deploy.pruning.head import classifier, solve_head
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.reconstruction import Reconstruction
from mvp_deploy.structure import KeepPlan, Structure
from mvp_deploy.tasks import Images
from mvp_deploy.tasks.preprocessing import Preprocessing
from mvp_deploy.training import accuracy


@dataclass(frozen=True)
class Report:
    """What pruning did.

    params, macs: of the smaller model; full_params, full_macs: of the one it was made from; macs for one image.
    units: the fraction of units kept. accuracy, full_accuracy: on the held-out images, 0..1, untuned; None without
    any. frozen: the share of weights that could not shrink. latency: how a budget of time was met; None without one.
    """

    params: int
    macs: int
    full_params: int
    full_macs: int
    units: float
    frozen: float
    accuracy: float | None
    full_accuracy: float | None
    latency: Met | None = None

    def __str__(self) -> str:
        sizes = (f"{self.latency}; " if self.latency else "") + (
            f"{self.macs / self.full_macs:.0%} of the MACs, {self.params / self.full_params:.0%} of the parameters, "
            f"{self.units:.0%} of the units"
        )
        if self.accuracy is None or self.full_accuracy is None:
            return sizes
        return f"{sizes}; accuracy {self.full_accuracy:.1%} before, {self.accuracy:.1%} after"


@dataclass(frozen=True, eq=False)
class Result:
    """A pruned model, ready to train, save or export.

    model: an ordinary module in eval mode (or, where its class cannot take the new sizes, a recorded program that
    trains and exports like one). plan: which units stayed. report: sizes and accuracies. backbone: how timm makes the
    unpruned model again; None for a module of one's own. classes: the outputs' names, where the data have them.
    """

    model: nn.Module
    plan: KeepPlan
    report: Report
    backbone: Backbone | None
    classes: tuple[str, ...]
    input_size: tuple[int, ...]


def prune(
    model: nn.Module | str,
    data: Any,
    *,
    macs: float | None = None,
    params: float | None = None,
    keep: float | None = None,
    latency: float | None = None,
    speed_up: float | None = None,
    on: str | os.PathLike[str] | Profile | None = None,
    validation: Any = None,
    pretrained: bool = False,
    weights: Any = None,
    image_size: int | None = None,
    criterion: str = "obs",
    reconstruct: bool = True,
    images: int = 1024,
    round_to: int = 8,
    device: torch.device | str = "auto",
    seed: int = 0,
) -> Result:
    """Cut a model to a share of its cost, and make up for what went in closed form; nothing is trained.

    The units whose loss per saving is least go first, over all groups at once (`mvp_deploy.pruning.knapsack`); the
    layers that lost inputs are re-solved (`mvp_deploy.pruning.reconstruction`). A model made from a name gets a head
    solved in closed form; a module keeps its own.

    Args:
        model: a classifier (timm's or one's own; it is not changed), or the name of a timm model, for which
            ``pretrained``, ``weights`` (a file) and ``image_size`` say which.
        data: what to prune for: a DataLoader, a Dataset, tensors ``(x, y)``, a folder, a task's name, or a task.
        macs, params, keep: how much stays, a fraction in (0, 1] of multiply-accumulates, parameters or units: one of
            them.
        latency, speed_up, on: or milliseconds, or how many times faster, as measured on the device, runtime and
            precision of a profile that `mvp-deploy profile` wrote; on the profile's machine the smaller model is
            timed, and chosen again where it misses.
        validation: images that judge the result, in any of the forms of ``data``; a task has its own.
        criterion: what a unit is worth: 'obs' (the rise in loss that its removal brings when the rest makes up for
            it), 'taylor', 'activation', 'magnitude' or 'random'.
        reconstruct: re-solve the layers that lost inputs; without it the result is the exact cut.
        images: how many images of a loader to read.
        round_to: channels and hidden units stay in multiples of it.
        device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device.

    Raises:
        MvpError: the model cannot be traced or cut, the budget cannot be met, or the data cannot be read.

    Example:
        >>> import mvp_deploy as mvp, torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 4))
        >>> x, y = torch.randn(64, 3, 16, 16), torch.arange(64) % 4
        >>> result = mvp.prune(net, (x, y), macs=0.5)
        >>> result.model(x).shape, result.report.macs <= 0.5 * result.report.full_macs
        (torch.Size([64, 4]), True)
    """
    budget = target_of(latency, speed_up, on, keep, macs, params) or budget_of(keep, macs, params, round_to)
    place = resolve(str(device))
    task = as_task(data)
    backbone = None
    if isinstance(model, str):
        if task is None:
            raise InputError(
                "A model made from a name needs a task (a folder, an .npz, a task's name): it has the classes."
            )
        backbone, state = backbones.create(
            model, pretrained=pretrained, weights=weights, image_size=image_size, seed=seed
        )
        full = backbones.build(backbone, state, len(task.classes), seed=seed)
        how: Preprocessing | None = backbone.preprocessing
    else:
        full = copy.deepcopy(model).eval()
        how, backbone = preprocessing_of(full, image_size), recognise(full, image_size)
    full = full.to(place)
    train = training_images(task or data, how, place, limit=images)
    test = held_out_images(task or data, validation, how, place)
    if isinstance(model, str):
        solve_head(full, classifier(full), train)
    elif (train.labels < 0).any():  # there were none: what the model itself says
        train = replace(train, labels=torch.cat([full(x).argmax(1) for x, _ in train.batches(64)]).detach())
    example = next(iter(train.batches(2)))[0]
    parts = analyze(full, example)
    met = None
    if isinstance(budget, Budget):
        plan = choose(full, parts, train, budget, criterion=criterion, seed=seed)
    else:
        scores = score(criterion, parts, full, KeepPlan.full(parts), train, seed=seed)
        plan, met = in_time(full, parts, scores, budget, round_to, seed)
    small = cut(full, plan, parts)
    if reconstruct:
        make_up(small, full, plan, train, parts, seed=seed)
    if isinstance(model, str):
        solve_head(small, classifier(full), train)
    report = _report(parts, plan, full, small, test, met)
    return Result(small, plan, report, backbone, task.classes if task else (), tuple(example.shape[1:]))


def analyze(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Structure:
    """What can be removed from a model; see `mvp_deploy.structure.analyze`.

    Args:
        model: any module; it is not changed.
        example: its input, or a tuple of its inputs, batch first; only the shapes count.

    Example:
        >>> import mvp_deploy as mvp, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> [(group.name, group.size) for group in mvp.analyze(net, torch.zeros(1, 3, 8, 8)).groups]
        [('0', 8)]
    """
    return structure.analyze(model, example)


def choose(
    model: nn.Module, parts: Structure, images: Images, budget: Budget, *, criterion: str = "taylor", seed: int = 0
) -> KeepPlan:
    """Which units stay: one threshold over all groups, on what a unit is worth per what it costs."""
    scores = score(criterion, parts, model, KeepPlan.full(parts), images, seed=seed)
    return keep_best(parts, scores, knapsack.cheapest(parts, budget, scores), seed=seed)


def cut(model: nn.Module, plan: KeepPlan, example: Structure | Tensor | tuple[Tensor, ...]) -> nn.Module:
    """The smaller model that a keep plan describes; exact: it computes what ``model`` does with the rest silenced.

    Args:
        model: the full-size module; it is not changed.
        plan: which units of each group stay.
        example: what `analyze` gave, or an input to analyse the model with.

    Raises:
        MvpError: the plan is for another model, or the model cannot run smaller.

    Example:
        >>> import mvp_deploy as mvp, numpy, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> x = torch.zeros(1, 3, 8, 8)
        >>> mvp.cut(net, mvp.KeepPlan({"0": numpy.arange(8) < 5}), x)[0]
        Conv2d(3, 5, kernel_size=(3, 3), stride=(1, 1))
    """
    parts = example if isinstance(example, Structure) else analyze(model, example)
    small = parts.prune(model, plan)
    restate_sizes(small, model, tuple(parts.example[0].shape[1:]))
    return small


def reconstruct(
    small: nn.Module,
    full: nn.Module,
    plan: KeepPlan,
    data: Any,
    example: Structure | Tensor | tuple[Tensor, ...] | None = None,
    *,
    images: int = 256,
    seed: int = 0,
) -> Reconstruction:
    """Re-solve the layers of a cut model that lost inputs, in place, so that they give what the full ones gave.

    Args:
        small: what `cut` made of ``full`` by ``plan``.
        data: images in any of the forms that `prune` takes; labels are not read.
        example: what `analyze` gave, or an input; the data's first images if left out.
        images: how many to use; more are better, up to a point.

    Returns:
        Each layer's error on images left out, before and after.

    Example:
        >>> import mvp_deploy as mvp, numpy, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3))
        >>> x = torch.randn(32, 3, 8, 8)
        >>> plan = mvp.KeepPlan({"0": numpy.arange(8) < 5})
        >>> small = mvp.cut(net, plan, x)
        >>> done = mvp.reconstruct(small, net, plan, x)
        >>> [layer.weight for layer in done.layers], done.layers[0].after < done.layers[0].before
        (['1.weight'], True)
    """
    train = training_images(data, preprocessing_of(full), next(full.parameters()).device, limit=images)
    first = next(iter(train.batches(2)))[0] if example is None else example
    parts = first if isinstance(first, Structure) else analyze(full, first)
    return reconstruction.reconstruct(full, parts, plan, small, train, most=images, seed=seed)


make_up = reconstruct  # `prune` has an argument of that name


def _report(
    parts: Structure, plan: KeepPlan, full: nn.Module, small: nn.Module, test: Images | None, met: Met | None
) -> Report:
    before, after = parts.cost(), parts.cost(plan)
    return Report(
        after.params,
        after.macs,
        before.params,
        before.macs,
        units_kept(parts, plan),
        parts.frozen_share,
        accuracy=accuracy(small, test) if test else None,
        full_accuracy=accuracy(full, test) if test else None,
        latency=met,
    )
