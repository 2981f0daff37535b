"""A classifier that somebody trained: the backbone, its weights with the head, and what the file says of both."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvp_deploy import backbones
from mvp_deploy.backbones.backbone import Backbone, digest, require_known
from mvp_deploy.backbones.timm_import import timm
from mvp_deploy.backbones.weights import head_prefixes, hint_of, read_file, some, state_in
from mvp_deploy.base.errors import InputError
from mvp_deploy.tasks.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """state: the model's weights, its head of ``outputs`` classes included. names: of these classes, where known."""

    backbone: Backbone
    state: Mapping[str, Tensor]
    outputs: int
    names: tuple[str, ...] | None = None

    def ordered(self, classes: Sequence[str]) -> Checkpoint:
        """The same classifier with its outputs in the order of ``classes``.

        Raises:
            InputError: its names are not those of ``classes``.
        """
        if self.names is None or self.names == tuple(classes):
            return self
        if sorted(self.names) != sorted(classes):
            sides = ("the checkpoint alone has", self.names, classes), ("the data alone have", classes, self.names)
            odd = "; ".join(some(who, set(own) - set(others)) for who, own, others in sides if set(own) - set(others))
            raise InputError(
                f"The checkpoint tells {len(self.names)} classes apart and the data have {len(classes)}: {odd}. Name "
                "the data's folders as the checkpoint's classes, which --classes gives in the order of its outputs."
            )
        rows = torch.tensor([self.names.index(name) for name in classes])
        heads = head_prefixes(backbones.build(self.backbone, None, self.outputs))
        state = {
            key: value[rows] if key.startswith(heads) and value.ndim and len(value) == self.outputs else value
            for key, value in self.state.items()
        }
        return replace(self, state=state, names=tuple(classes))


def read_checkpoint(file: Path, name: str | None = None, *, image_size: int | None = None) -> Checkpoint:
    """A trained timm model from its checkpoint.

    timm's own training script writes the architecture, image size, mean and deviation beside the weights; these are
    taken from there.

    Args:
        file: .safetensors, or a .pth/.pt of plain tensors.
        name: timm's name of the architecture, where the file does not say it.
        image_size: in pixels; by default the one it was trained at, or else the architecture's own.

    Raises:
        InputError: the file cannot be read safely, holds no head, or belongs to another architecture.
    """
    content = read_file(file)
    state = state_in(content, file)
    arguments = _arguments(content)
    name = name or _architecture(content, arguments, state, file)
    image_size = image_size or _size(arguments)
    outputs = _outputs(name, state)
    if outputs is None:
        raise InputError(
            f"{file} has no classifier that fits timm's {name}: pass it as --weights, if it is a backbone alone."
            + hint_of(state, name)
        )
    backbone, _ = backbones.create(name, weights=file, image_size=image_size)
    model = backbones.build(backbone, state, outputs)
    trained = {key: value.detach().clone() for key, value in model.state_dict().items()}
    how = timm().data.resolve_data_config(dict(arguments), model=model)
    how["input_size"] = backbone.preprocessing.input_size
    preprocessing = Preprocessing.from_json(how)
    return Checkpoint(replace(backbone, weights_sha256=digest(trained), preprocessing=preprocessing), trained, outputs)


def _arguments(content: Any) -> Mapping[str, Any]:
    """What timm's training script was called with."""
    found = content.get("args") if isinstance(content, dict) else None
    return vars(found) if isinstance(found, argparse.Namespace) else found if isinstance(found, dict) else {}


def _architecture(content: Any, arguments: Mapping[str, Any], state: Mapping[str, Tensor], file: Path) -> str:
    name = arguments.get("model") or (content.get("arch") if isinstance(content, dict) else None)
    if not isinstance(name, str):
        raise InputError(
            f"{file} does not say which architecture it is of: name it with --model, as timm does." + hint_of(state)
        )
    return name.partition(".")[0]


def _size(arguments: Mapping[str, Any]) -> int | None:
    shape, size = arguments.get("input_size"), arguments.get("img_size")
    if isinstance(shape, (list, tuple)) and len(shape) == 3 and shape[1] != shape[2]:
        raise InputError(
            f"The checkpoint was trained on images of {shape[1]} x {shape[2]}: only squares are supported."
        )
    found = shape[-1] if isinstance(shape, (list, tuple)) and len(shape) == 3 else size
    return found if isinstance(found, int) else None


def _outputs(name: str, state: Mapping[str, Tensor]) -> int | None:
    """How many classes the head in ``state`` tells apart; None if it has none."""
    require_known(name)
    config = timm().models.get_pretrained_cfg(name)
    heads = config.classifier if isinstance(config.classifier, (tuple, list)) else (config.classifier,)
    ends = tuple(f"{head}.weight" for head in heads if head)
    rows = {len(value) for key, value in state.items() if ends and key.endswith(ends)}
    return rows.pop() if len(rows) == 1 else None
