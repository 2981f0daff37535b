"""`mvp.prune`: what ``mvp-deploy prune`` makes before fine-tuning, of a name or of a module of one's own."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mvp_deploy import backbones
from mvp_deploy.api.arguments import check
from mvp_deploy.api.bank import Bank
from mvp_deploy.api.budget import budget_of, target_of
from mvp_deploy.api.data import as_task, held_out_images, input_of, training_images
from mvp_deploy.api.progress import reporter as told
from mvp_deploy.api.result import Report, Result
from mvp_deploy.backbones import Backbone
from mvp_deploy.backbones.backbone import preprocessing_of, recognise
from mvp_deploy.bank.alone import alone
from mvp_deploy.bank.new import NewTask
from mvp_deploy.base.devices import resolve
from mvp_deploy.base.errors import InputError, ParityError
from mvp_deploy.latency.format import Profile
from mvp_deploy.latency.meet import Met
from mvp_deploy.pruning.budget import units_kept
from mvp_deploy.pruning.making import Made, make
from mvp_deploy.pruning.mvp import cut
from mvp_deploy.pruning.original import Original, check_exact
from mvp_deploy.pruning.recipes import RECIPES, Recipe, changed, recipe_named
from mvp_deploy.pruning.rotation import rotated
from mvp_deploy.pruning.yardstick import Yardstick, measurable
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
    criterion: str | None = None,
    reconstruct: bool = True,
    images: int = 1024,
    round_to: int = 8,
    device: torch.device | str = "auto",
    seed: int = 0,
) -> Result:
    """Cut a model to a share of its cost, and make up for what went in closed form; nothing is trained.

    This is what ``mvp-deploy prune`` makes before fine-tuning (`mvp_deploy.pruning.making`): linear streams are turned
    into their principal directions, units go where their loss per saving is least, by two criteria and in one round or
    three, and the layers that lost inputs are re-solved. Of these ways the training images choose: by leave-one-out
    loss where the model ends in one linear layer that timm's conventions name, else by the loss of the module's own
    head.

    A model made from a name gets a head solved in closed form. A module keeps its own, unless one in closed form does
    better on images that it has not seen; that takes timm's conventions and images of every class. A module's streams
    stay as they are where it cannot run in float64, and with ``keep=`` everything goes in one round.

    With ``bank=``, tasks that were pruned earlier decide instead, and both models are fine-tuned: see `Bank.prune`.

    Args:
        model: a classifier (timm's or one's own; it is not changed, and pruned in float32 whatever it is in), or the
            name of a timm model.
        data: what to prune for: a DataLoader, a Dataset, tensors ``(x, y)`` (x float [n, channels, height, width]), a
            folder, a task's name, or a task.
        macs: the fraction of multiply-accumulates that stays, in (0, 1]; this, ``params`` or ``keep``, by default half
            of the multiply-accumulates.
        params: the fraction of parameters that stays.
        keep: the fraction of units that stays, the same of every group.
        latency: or milliseconds, as measured on the device, runtime and precision of the profile ``on``; on the
            profile's machine the smaller model is timed, and chosen again where it misses.
        speed_up: or how many times faster, in the same way.
        on: a profile that ``mvp-deploy profile`` wrote, or its file.
        bank: a `Bank` or its folder; ``model`` is then the name of its backbone, and ``data`` a task.
        out: with ``bank``, the RUN folder to write, which `mvp_deploy.export` and ``mvp-deploy export`` take.
        recipe: how it is pruned: 'default', or 'compensated' for one way alone; with ``bank``, how its tasks vote.
        steps: with ``bank``, of each model's fine-tuning.
        validation: images that judge the result, in any of the forms of ``data``; a task has its own. Without labels
            the unpruned model's answers are the labels, and accuracy is agreement with it.
        pretrained: of a name, start from timm's pretrained weights.
        weights: of a name, start from those of this file. Without either they are random: for trying only.
        image_size: edge of the input in pixels; the model's own by default.
        criterion: what a unit is worth, where one way alone is to be tried: 'obs' (the rise in loss that its removal
            brings when the rest makes up for it), 'taylor', 'activation', 'magnitude' or 'random'.
        reconstruct: re-solve the layers that lost inputs; without it the result is the exact cut of ``model``.
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
        others = (validation, weights, image_size, criterion)
        if pretrained or not reconstruct or any(given is not None for given in others):
            raise InputError(
                "A bank has its weights and image size, a task its held-out images, and the recipe says what a unit is "
                "worth and whether layers are re-solved: leave out validation=, pretrained=, weights=, image_size=, "
                "criterion= and reconstruct= beside bank=."
            )
        opened = bank if isinstance(bank, Bank) else Bank.open(bank)
        _require_backbone(opened, model)
        return opened.prune(
            data,
            macs=macs,
            params=params,
            keep=keep,
            latency=latency,
            speed_up=speed_up,
            on=on,
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
    timed = target_of(latency, speed_up, on, told(), keep, macs, params)
    budget, meet = timed.meeting(round_to, told()) if timed else (budget_of(keep, macs, params, round_to), None)
    way, place = _way(recipe, criterion, reconstruct, own=not isinstance(model, str)), resolve(str(device))
    task = as_task(data)
    if isinstance(model, str):
        if task is None:
            raise InputError(
                "A model made from a name needs a task (a folder, an .npz, a task's name): it has the classes."
            )
        made_of = backbones.create(model, pretrained=pretrained, weights=weights, image_size=image_size, seed=seed)
        new = NewTask.of(task, alone(task, *made_of, seed=seed), place, seed)
        original, train = new.original, new.train
        backbone: Backbone | None = original.backbone
        how: Preprocessing | None = original.backbone.preprocessing
    elif not isinstance(model, nn.Module):
        raise InputError(f"A {type(model).__name__} cannot be pruned: pass a module, or the name of a timm model.")
    else:
        own = copy_with(model, {}).float().eval()
        how, backbone = preprocessing_of(own, image_size), recognise(own, image_size)
        train = training_images(task or data, how, place, limit=images)
        original = Original.of(own.to(place), train)
        train = labelled(train, own)
        if reconstruct:
            with suppress(ParityError):
                own.load_state_dict(rotated(own, original.structure, train, seed=seed))
    test = held_out_images(task or data, validation, how, place)
    if test is not None:
        check_classifier(original.model, test)
    made = make(original, train, (), way, budget, allocate=meet(original) if meet else None, seed=seed, reporter=told())
    doubts = Yardstick(original, train).doubts if measurable(original) else ()
    for sentence in (*made.decision.warnings, *doubts):
        told().warn(sentence)
    full = original.copy() if original.own else original.headed(train).model
    if not original.own:
        check_exact(original, made.decision.plan, cut(original, made.decision), train)
    report = _report(original, made, full, None if test is None else labelled(test, full))
    channels, height, width = input_of(train).shape[1:]
    names = task.classes if task else ()
    return Result(made.model, full, made.decision.plan, report, backbone, names, (channels, height, width))


def _way(recipe: str, criterion: str | None, reconstruct: bool, *, own: bool) -> Recipe:
    """The recipe as the arguments change it; ``own``: for a module with its trained head."""
    way = recipe_named(recipe)
    if criterion is not None:
        way = changed(RECIPES["compensated"], [f"criterion={criterion}", f"rounds={way.rounds}"])
    if not reconstruct:  # 'fresh' solves no head
        way = replace(way, reconstruct=False, norms="frozen", head="fresh" if own else way.head)
    elif own:
        way = replace(way, head="trained")
    return way


def _require_backbone(bank: Bank, model: object) -> None:
    """Refuse a model that is not the name of the bank's backbone."""
    own = bank.store.backbone
    if model not in (own.name, own.weights):
        what = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise InputError(f"The bank {bank.store.folder} prunes its own backbone: pass {own.name!r}, not {what}.")


def _report(original: Original, made: Made, full: nn.Module, test: Images | None) -> Report:
    parts, plan, met = original.structure, made.decision.plan, made.decision.allotted
    before, after = original.cost(), original.cost_of(made.model, plan)
    return Report(
        after.params,
        after.macs,
        before.params,
        before.macs,
        units_kept(parts, plan),
        parts.frozen_share,
        accuracy=accuracy(made.model, test) if test else None,
        full_accuracy=accuracy(full, test) if test else None,
        latency=Met(**met) if met else None,
    )
