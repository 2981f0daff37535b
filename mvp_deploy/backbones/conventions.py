"""timm's attributes that state a model's sizes, made true again on a pruned one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

WIDTHS = ("num_features", "head_hidden_size", "embed_dim", "in_features", "hidden_size")


def restate_sizes(small: nn.Module, full: nn.Module, input_size: tuple[int, ...]) -> None:
    """Set what ``small``, pruned from the timm model ``full``, says of its own widths; in place.

    Afterwards ``num_features`` and ``head_hidden_size`` are the widths that ``forward_features`` and
    ``forward_head(…, pre_logits=True)`` give, ``feature_info`` has each stage's channels, and ``reset_classifier``
    makes a head that fits. Both models run once, on zeros. A model without these methods is left alone.

    Args:
        small: the pruned model.
        full: the model it was pruned from.
        input_size: channels, height, width of an image.
    """
    if not callable(getattr(small, "forward_features", None)) or not hasattr(full, "num_features"):
        return
    taps = [info["module"] for info in _stages(full) if "module" in info]
    before, after = (_shapes(model, input_size, taps) for model in (full, small))
    if before is None or after is None:
        return
    width = _translation(before, after)
    for module in (small, getattr(small, "head", None)):
        for name in WIDTHS if isinstance(module, nn.Module) and not isinstance(module, nn.Linear) else ():
            old = vars(module).get(name)
            if old in width:
                setattr(module, name, width[old])
    if _stages(full):
        small.feature_info = copy.deepcopy(full.feature_info)
        for info in _stages(small):
            if info.get("module") in after:
                info["num_chs"] = _width(info["num_chs"], before[info["module"]], after[info["module"]])


def _stages(model: nn.Module) -> list[dict[str, Any]]:
    """The records of ``feature_info``, which timm keeps in a list or in a FeatureInfo."""
    found: Any = getattr(model, "feature_info", None)
    records = getattr(found, "info", found)
    return records if isinstance(records, list) else []


@torch.no_grad()
def _shapes(model: nn.Module, input_size: tuple[int, ...], taps: list[str]) -> dict[str, torch.Size] | None:
    """The shape of the features, of the head's last input and of the tapped modules' outputs."""
    shapes: dict[str, torch.Size] = {}
    parts: Mapping[str, nn.Module] = dict(model.named_modules())
    hooks = [parts[tap].register_forward_hook(_note(shapes, tap)) for tap in taps if tap in parts]
    forward: Any = model
    training = model.training
    model.eval()
    first = next(model.parameters())
    try:
        features = forward.forward_features(torch.zeros(1, *input_size, device=first.device, dtype=first.dtype))
        last = forward.forward_head(features, pre_logits=True)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    if not isinstance(features, Tensor) or not isinstance(last, Tensor):
        return None
    return {**shapes, " features": features.shape, " last": last.shape}


def _note(shapes: dict[str, torch.Size], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes[name] = output.shape

    return hook


def _translation(before: Mapping[str, torch.Size], after: Mapping[str, torch.Size]) -> dict[int, int]:
    """The widths of the features and of the head's last input, old to new."""
    pairs = [(old, new) for name in (" last", " features") for old, new in zip(before[name], after[name], strict=True)]
    return {old: new for old, new in pairs if old != new}


def _width(stated: int, before: torch.Size, after: torch.Size) -> int:
    """A stage's channels: the dimension that ``stated`` named before."""
    return next((new for old, new in zip(before, after, strict=True) if old == stated), stated)
