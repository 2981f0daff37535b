"""Reading other people's weights files, and loading them into a timm model without loose ends."""

from __future__ import annotations

import argparse
import pickle
import re
import sys
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvp_deploy.backbones.architectures import nearest
from mvp_deploy.base.errors import InputError, MvpError, first_line

WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "model_state_dict")  # the better weights first
PREFIXES = ("module.", "model.", "ema.", "ema_model.", "model_ema.")  # of what training scripts wrap a model in
COUNTERS = "num_batches_tracked"  # of batch norm: nothing is computed from them
ENDINGS = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")  # of weights files; no name of timm's ends so
INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # by torch, at any depth


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, out of the wrappings that training scripts put around it.

    Raises:
        MvpError: as `read_file` does, or there is no state dict in it.
    """
    return state_in(read_file(path), path)


def read_file(path: Path) -> Any:
    """The content of a weights file, read without running code from it.

    It may hold tensors, plain values, and the argparse.Namespace in which timm's train.py keeps its arguments.

    Raises:
        MvpError: no such file, or not safetensors or a PyTorch file of plain tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no weights file {path}: check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and unpickler each have errors of their own
        found = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
        why = first_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's advice is to read it in a way that may run code
            why = f"it holds {found[1]}, and to read that could run code" if found else "torch cannot read it"
        raise InputError(
            f"{path} is not a safetensors or PyTorch file of plain tensors ({why}): "
            "save the model's state_dict() alone, best as .safetensors"
        ) from error


def state_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what `read_file` gave for ``path``. Raises MvpError if there is none."""
    state = _state_in(content)
    if state is None:
        raise InputError(f"{path} holds no state dict: save the model's state_dict(), best as .safetensors")
    return state


def _state_in(content: Any, depth: int = 3) -> dict[str, Tensor] | None:
    """The first state dict in the wrappers, or in wrappers within them."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return None
    for key in WRAPPERS if depth else ():
        if (found := _state_in(content.get(key), depth - 1)) is not None:
            return found
    return content if content and all(isinstance(value, Tensor) for value in content.values()) else None


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load everything but the head; the head too where it has the model's shape.

    Prefixes that training scripts and torch put before the names are taken off. A state dict of another form goes
    through timm's own converter for the architecture, where it has one: it renames the keys of original releases and
    resamples position embeddings to another image size.

    Raises:
        MvpError: entries are missing, unknown, of another shape or kind of number, or not finite.
    """
    own = model.state_dict()
    heads = head_prefixes(model)
    state = _unprefixed(state, {key for key in own if not key.startswith(heads) and not key.endswith(COUNTERS)})

    def shapes(entries: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in entries.items() if not key.startswith(heads)}

    hint = hint_of(state, model.pretrained_cfg.get("architecture", ""))  # type: ignore[union-attr, operator]
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and shapes(state) != shapes(own):
        try:
            state = convert(dict(state), model)
        except Exception as error:  # it expects an original release, and this is something else
            raise _mismatch(source, f"timm cannot convert them, {error!r}", hint) from error
    expected, given = shapes(own), shapes(state)
    for key, shape in given.items():
        if key not in expected:
            raise _mismatch(source, some("they have the unknown", given.keys() - expected.keys()), hint)
        if shape != expected[key]:
            wrong = f"{key} is {list(shape)} there and {list(expected[key])} in the model"
            raise _mismatch(source, wrong, hint)
    missing = {key for key in expected.keys() - given.keys() if not key.endswith(COUNTERS)}
    if missing:
        raise _mismatch(source, some("they lack", missing), hint)
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    for key, value in fitting.items():
        if value.is_floating_point() != own[key].is_floating_point() and not key.endswith(COUNTERS):
            raise _mismatch(source, f"{key} is {value.dtype} there and {own[key].dtype} in the model")
    try:
        model.load_state_dict(fitting, strict=False)
    except (RuntimeError, NotImplementedError) as error:  # sparse, quantised, or without data
        raise _mismatch(source, f"torch cannot copy them, {first_line(error)}") from error
    for key, value in model.state_dict().items():
        if key in fitting and not value.isfinite().all():
            raise InputError(
                f"the weights of {source} are not all finite: {key} has NaN or infinity. The training that wrote them "
                "diverged: take an earlier checkpoint"
            )


def _unprefixed(state: Mapping[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """The state without prefixes: the part of it that has all the expected names, an average's (EMA) before others.

    Where no part has, the names may be an original release's, and known prefixes go that all entries share.
    """
    state = _without_insertions(state)
    any_name = min(expected, default="")
    prefixes = [key.removesuffix(any_name) for key in state if key.endswith(any_name)]
    fitting = [prefix for prefix in prefixes if all(prefix + key in state for key in expected)]
    if fitting:
        prefix = min(fitting, key=lambda prefix: ("ema" not in re.split(r"[._]", prefix), len(prefix)))
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return _without_shared_prefixes(state)


def _without_insertions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {reduce(lambda name, part: name.replace(part, ""), INSERTED, key): value for key, value in state.items()}


def _without_shared_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while shared := [prefix for prefix in PREFIXES if state and all(key.startswith(prefix) for key in state)]:
        state = {key.removeprefix(shared[0]): value for key, value in state.items()}
    return state


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the head's entries in the state dict, as the model's configuration names them."""
    config: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    names = config.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def some(what: str, keys: set[str]) -> str:
    """«they lack a, b, c and 12 more»."""
    return f"{what} {', '.join(sorted(keys)[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"


def hint_of(state: Mapping[str, Tensor], asked: str = "") -> str:
    """« The weights look like timm's resnet34: …»; empty if that was ``asked`` for, or if timm has nothing like it."""
    plain = _without_shared_prefixes(_without_insertions(state))
    found = nearest({key: value.shape for key, value in plain.items()}, asked)
    return f" The weights look like {found}: if they are, name that model." if found else ""


def _mismatch(source: str, what: str, hint: str = "") -> MvpError:
    return InputError(f"the weights of {source} do not fit the model: {what}; choose the model they belong to.{hint}")
