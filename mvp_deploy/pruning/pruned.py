"""A pruned model on disk: its backbone's recipe, its keep plan and its weights in one safetensors file, no pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mvp_deploy import backbones
from mvp_deploy.backbones import Backbone
from mvp_deploy.backbones.conventions import restate_sizes
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import InputError
from mvp_deploy.base.formats import Classes
from mvp_deploy.pruning.biases import fit_biases
from mvp_deploy.structure import KeepPlan, analyze, prune
from mvp_deploy.structure.plan import PackedMask

FORMAT = 1


@dataclass(frozen=True)
class Header:
    """The JSON header of a model's file."""

    format: int
    backbone: Backbone
    plan: dict[str, PackedMask]
    classes: Classes
    extra: dict[str, Any]


FORM = tensorfile.Form(Header, FORMAT)


@dataclass(frozen=True)
class PrunedModel:
    """An eager model in eval mode on the CPU, and what it is: ``classes`` names its outputs in order."""

    model: nn.Module
    backbone: Backbone
    plan: KeepPlan
    classes: tuple[str, ...]
    extra: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    model_state: Mapping[str, Tensor],
    backbone: Backbone,
    plan: KeepPlan,
    classes: Sequence[str],
    extra: Mapping[str, Any],
) -> None:
    """Write a pruned model (or an unpruned one: a plan that keeps all), whole or not at all. extra: JSON values."""
    header = {
        "format": FORMAT,
        "backbone": backbone.to_json(),
        "plan": plan.to_json(),
        "classes": list(classes),
        "extra": dict(extra),
    }
    tensorfile.save(path, header, {"weights": model_state}, FORM)


def load(path: str | os.PathLike[str]) -> PrunedModel:
    """Read and rebuild a model that `save` wrote, equal to the bit.

    Raises:
        MvpError: the file is missing, damaged, of a newer format, or does not fit the installed timm's model.
    """
    header, sections = tensorfile.load(path, ["weights"], FORM)
    backbone, plan = Backbone.from_json(header["backbone"]), KeepPlan.from_json(header["plan"])
    model = rebuild(backbone, plan, len(header["classes"]), sections["weights"])
    return PrunedModel(model, backbone, plan, tuple(header["classes"]), header["extra"])


def rebuild(backbone: Backbone, plan: KeepPlan, num_classes: int, weights: Mapping[str, Tensor]) -> nn.Module:
    """The model of ``plan`` with ``weights``: the full model is built for its shapes, with random weights, and cut."""
    full = backbones.build(backbone, None, num_classes)
    structure = analyze(full, torch.zeros(2, *backbone.preprocessing.input_size), allow_inexact=backbone.allow_inexact)
    if {group.name: group.size for group in structure.groups} != {n: len(m) for n, m in plan.masks.items()}:
        raise InputError(
            f"The keep plan was made for another structure of {backbone.name} than the installed timm gives: "
            "install the versions it was made with, or prune again."
        )
    model = prune(structure, full, plan, check=False)  # it was checked before it was saved
    restate_sizes(model, full, backbone.preprocessing.input_size)
    fit_biases(model, weights)
    try:
        model.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise InputError(f"The weights do not fit {backbone.name} as timm builds it: {error}") from error
    return model.eval()
