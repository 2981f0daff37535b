"""Reading other people's weights files, and loading them into a timm model without loose ends."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvp_deploy.base.errors import DeployError

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # the better weights first


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, out of the wrappings that training scripts put around it.

    Raises:
        DeployError: no such file, not safetensors or a PyTorch file of plain tensors, or no state dict in it.
    """
    path = Path(path)
    if not path.is_file():
        raise DeployError(f"there is no weights file {path}: check the path")
    try:
        content: Any
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and unpickler each have errors of their own
        raise DeployError(
            f"{path} is not a safetensors or PyTorch file of plain tensors ({error!r}): "
            "save the model's state_dict() alone, best as .safetensors"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DeployError(f"{path} holds no state dict: save the model's state_dict(), best as .safetensors")
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in content.items()}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load everything but the head; the head too where it has the model's shape.

    A state dict of another form goes through timm's own converter for the architecture, where it has one: it
    renames the keys of original releases and resamples position embeddings to another image size.

    Raises:
        DeployError: entries are missing, unknown or of another shape.
    """
    own = model.state_dict()
    heads = head_prefixes(model)

    def shapes(entries: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in entries.items() if not key.startswith(heads)}

    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and shapes(state) != shapes(own):
        try:
            state = convert(dict(state), model)
        except Exception as error:  # it expects an original release, and this is something else
            raise _mismatch(source, f"timm cannot convert them, {error!r}") from error
    expected, given = shapes(own), shapes(state)
    for key, shape in given.items():
        if key not in expected:
            raise _mismatch(source, _some("they have the unknown", given.keys() - expected.keys()))
        if shape != expected[key]:
            raise _mismatch(source, f"{key} is {list(shape)} there and {list(expected[key])} in the model")
    missing = {key for key in expected.keys() - given.keys() if not key.endswith("num_batches_tracked")}
    if missing:
        raise _mismatch(source, _some("they lack", missing))
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    model.load_state_dict(fitting, strict=False)


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the head's entries in the state dict, as the model's configuration names them."""
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    names = config.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _some(what: str, keys: set[str]) -> str:
    return f"{what} {', '.join(sorted(keys)[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"


def _mismatch(source: str, what: str) -> DeployError:
    return DeployError(f"the weights of {source} do not fit the model: {what}; choose the model they belong to")
