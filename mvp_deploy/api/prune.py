"""`mvp.prune`: the parts of `mvp_deploy.api.parts`, in one call."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from mvp_deploy import backbones
from mvp_deploy.api.arguments import check
from mvp_deploy.api.bank import Bank
from mvp_deploy.api.budget import budget_of, in_time, target_of
from mvp_deploy.api.data import as_task, held_out_images, input_of, training_images
from mvp_deploy.api.parts import analyze, choose, cut
from mvp_deploy.api.parts import reconstruct as make_up  # `prune` has an argument of that name
from mvp_deploy.api.result import Report, Result
from mvp_deploy.backbones.backbone import preprocessing_of, recognise
from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import InputError, LatencyError
from mvp_deploy.latency.floor import BelowFloor
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Met
from mvp_deploy.pruning.blocks import worth
from mvp_deploy.pruning.budget import Budget, units_kept
from mvp_deploy.pruning.head import classifier, separability, solve_head
from mvp_deploy.pruning.importance import score
from mvp_deploy.pruning.tuning import judged
from mvp_deploy.structure import KeepPlan, Structure
from mvp_deploy.structure.fakes import copy_with
from mvp_deploy.tasks import Images
from mvp_deploy.tasks.own import check_classifier, labelled
from mvp_deploy.tasks.preprocessing import Preprocessing
from mvp_deploy.training import accuracy


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
    bank: Bank | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    recipe: str = "default",
    steps: int = 200,
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

    With ``bank=``, tasks that were pruned earlier decide instead, and both models are fine-tuned: see `Bank.prune`.

    Args:
        model: a classifier (timm's or one's own; it is not changed), or the name of a timm model.
        data: what to prune for: a DataLoader, a Dataset, tensors ``(x, y)`` (x float [n, channels, height, width]), a
            folder, a task's name, or a task.
        macs: the fraction of multiply-accumulates that stays, in (0, 1]; this, ``params`` or ``keep``.
        params: the fraction of parameters that stays.
        keep: the fraction of units that stays.
        latency: or milliseconds, as measured on the device, runtime and precision of the profile ``on``; on the
            profile's machine the smaller model is timed, and chosen again where it misses.
        speed_up: or how many times faster, in the same way.
        on: a profile that ``mvp-deploy profile`` wrote, or its file.
        bank: a `Bank` or its folder; ``model`` is then the name of its backbone, and ``data`` a task.
        out: with ``bank``, the RUN folder to write, which `mvp_deploy.export` and ``mvp-deploy export`` take.
        recipe: with ``bank``, how its tasks vote: 'default', 'paper', …
        steps: with ``bank``, of each model's fine-tuning.
        validation: images that judge the result, in any of the forms of ``data``; a task has its own.
        pretrained: of a name, start from timm's pretrained weights.
        weights: of a name, start from those of this file. Without either they are random: for trying only.
        image_size: edge of the input in pixels; the model's own by default.
        criterion: what a unit is worth: 'obs' (the rise in loss that its removal brings when the rest makes up for
            it), 'taylor', 'activation', 'magnitude' or 'random'.
        reconstruct: re-solve the layers that lost inputs; without it the result is the exact cut.
        images: how many images of a loader to read.
        round_to: channels and hidden units stay in multiples of it.
        device: 'auto', 'cpu', 'cuda', 'cuda:N' or a torch.device.
        seed: of what is drawn at random.

    Raises:
        StructureError: the model cannot be traced or cut.
        InputError: the budget cannot be met, the data cannot be read, or arguments exclude each other.
        EnvironmentMissing: pretrained weights or the device cannot be had.

    Examples:
        >>> import mvp_deploy as mvp, torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 4))
        >>> x, y = torch.randn(64, 3, 16, 16), torch.arange(64) % 4
        >>> result = mvp.prune(net, (x, y), macs=0.5)
        >>> result.model(x).shape, result.report.macs <= 0.5 * result.report.full_macs
        (torch.Size([64, 4]), True)
    """
    if bank is not None:
        if latency is not None or speed_up is not None:
            raise InputError(
                "Ask a bank for macs=, params= or keep=: a time is met without one, or by `mvp-deploy prune`."
            )
        if validation is not None or pretrained or weights is not None or image_size is not None or criterion != "obs":
            raise InputError(
                "A bank has its weights and image size, a task its held-out images, and the recipe says what a unit is "
                "worth: leave out validation=, pretrained=, weights=, image_size= and criterion= beside bank=."
            )
        opened = bank if isinstance(bank, Bank) else Bank.open(bank)
        _require_backbone(opened, model)
        return opened.prune(
            data,
            macs=macs,
            params=params,
            keep=keep,
            round_to=round_to,
            out=out,
            recipe=recipe,
            steps=steps,
            device=device,
            seed=seed,
        )
    if out is not None:
        raise InputError(
            "out= writes a RUN of a bank: pass bank= as well; without one, mvp.save(result, FILE) writes the model and "
            "mvp.export(result, FOLDER) a bundle."
        )
    check(images=images, image_size=image_size, round_to=round_to, seed=seed)
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
        full = copy_with(model, {}).eval()
        how, backbone = preprocessing_of(full, image_size), recognise(full, image_size)
    full = full.to(place)
    train = training_images(task or data, how, place, limit=images)
    test = held_out_images(task or data, validation, how, place)
    if isinstance(model, str):
        solve_head(full, classifier(full), train)
    example = input_of(train)
    parts = analyze(full, example)
    check_classifier(full, train)
    train = labelled(train, full)

    def made(plan: KeepPlan) -> nn.Module:
        small = cut(full, plan, parts)
        if reconstruct:
            make_up(small, full, plan, train, parts, seed=seed)
        if isinstance(model, str):
            solve_head(small, classifier(full), train)
        return small

    def loss(small: nn.Module) -> float:
        """Of the training images: leave-one-out where the head was solved on them."""
        if isinstance(model, str):
            return -separability(small, classifier(full), train)
        return judged(small, train).loss

    met = None
    if isinstance(budget, Budget):
        plan = choose(full, parts, train, budget, criterion=criterion, seed=seed)
        small = made(plan)
    else:
        scores = score(criterion, parts, full, KeepPlan.full(parts), train, seed=seed)
        whole = criterion == "obs" and reconstruct  # in nats, and made up for
        value = worth(full, parts, train, seed=seed) if whole else None
        plan, met = in_time(full, parts, scores, value, budget, round_to, seed)
        small = made(plan)
        if plan.without:  # the rival keeps all blocks: see `pruning.making.make`
            with suppress(BelowFloor, LatencyError):
                other, other_met = in_time(full, parts, scores, None, budget, round_to, seed)
                rival = made(other)
                if loss(rival) < loss(small):
                    plan, met, small = other, other_met, rival
    report = _report(parts, plan, full, small, test, met)
    channels, height, width = example.shape[1:]
    return Result(small, full, plan, report, backbone, task.classes if task else (), (channels, height, width))


def _require_backbone(bank: Bank, model: object) -> None:
    """Refuse a model that is not the name of the bank's backbone."""
    own = bank.store.backbone
    if model not in (own.name, own.weights):
        what = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise InputError(f"The bank {bank.store.folder} prunes its own backbone: pass {own.name!r}, not {what}.")


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
