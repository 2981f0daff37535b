"""Cutting weights out, not zeroing them: state dicts and tensors of a smaller model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.structure.fakes import named_tensors
from mvp_deploy.structure.plan import KeepPlan
from mvp_deploy.structure.structure import Structure

Masks = Sequence[Any]  # of one tensor: per dimension the boolean mask of the positions that stay, None for all


def gather(structure: Structure, state: Mapping[str, Tensor], plan: KeepPlan) -> dict[str, Tensor]:
    """The smaller model's state dict, cut out of a full-size one; tensors unknown to the structure pass."""
    masks, gone = structure.tensor_masks(plan), structure.gone(plan.without)
    return {name: cut(tensor, masks.get(name, ())) for name, tensor in state.items() if name not in gone}


def scatter(structure: Structure, state: Mapping[str, Tensor], plan: KeepPlan) -> dict[str, Tensor]:
    """A full-size state dict with the smaller model's weights at their units' places, zeros elsewhere.

    What went with whole blocks is not in it.
    """
    masks = structure.tensor_masks(plan)
    return {name: put_back(tensor, masks.get(name, ())) for name, tensor in state.items()}


def cut_tensors(model: nn.Module, masks: Mapping[str, Masks]) -> Iterator[tuple[int, Tensor]]:
    """The smaller copy of every parameter and buffer, by the id of the full one."""
    for name, tensor in named_tensors(model):
        small = cut(tensor.detach(), masks.get(name, ()))
        small = small.clone() if small.data_ptr() == tensor.data_ptr() else small
        yield id(tensor), nn.Parameter(small, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else small


def cut(tensor: Tensor, masks: Masks) -> Tensor:
    """The positions that stay."""
    for dim, mask in enumerate(masks):
        if mask is not None:
            tensor = tensor.index_select(dim, _places(mask, tensor.device))
    return tensor


def put_back(tensor: Tensor, masks: Masks) -> Tensor:
    """Undo `cut`, with zeros at the removed positions."""
    for dim, mask in enumerate(masks):
        if mask is not None:
            full = tensor.new_zeros([*tensor.shape[:dim], len(mask), *tensor.shape[dim + 1 :]])
            tensor = full.index_copy(dim, _places(mask, tensor.device), tensor)
    return tensor


def _places(mask: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask)).to(device)
