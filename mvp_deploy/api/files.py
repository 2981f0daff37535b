"""`mvp.save` and `mvp.load`: a pruned model as one safetensors file, no pickle, no original weights needed."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from mvp_deploy import runs
from mvp_deploy.api.result import Result
from mvp_deploy.backbones.conventions import restate_sizes
from mvp_deploy.base import tensorfile
from mvp_deploy.base.errors import InputError
from mvp_deploy.pruning import pruned
from mvp_deploy.pruning.biases import fit_biases
from mvp_deploy.structure import KeepPlan, analyze, prune
from mvp_deploy.structure.fakes import copy_with

OWN = 1  # format of a file that holds a user's module


def save(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write ``result.model`` as it is now (trained further or not), whole or not at all.

    Args:
        result: what `prune` gave.
        path: the file, safetensors with a JSON header.

    Returns:
        The path.

    Raises:
        EnvironmentMissing: the file cannot be written.

    Examples:
        >>> import mvp_deploy as mvp, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.ReLU(),
        ...                           torch.nn.Linear(16, 2))
        >>> result = mvp.prune(net, (torch.randn(32, 3, 4, 4), torch.arange(32) % 2), macs=0.5)
        >>> mvp.save(result, "small.safetensors").name
        'small.safetensors'
    """
    state = {name: value.detach().cpu() for name, value in result.model.state_dict().items()}
    classes = result.classes or tuple(map(str, range(_outputs(result))))
    if result.backbone is not None:
        pruned.save(path, state, result.backbone, result.plan, classes, {})
    else:
        header = {
            "own": OWN,
            "plan": result.plan.to_json(),
            "classes": list(classes),
            "input_size": list(result.input_size),
        }
        tensorfile.save(path, header, {"weights": state})
    return Path(path)


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Read a model that `save` or a run wrote, in eval mode on the CPU.

    Args:
        path: the file, or a RUN folder, of which the pruned model is taken.
        model: for your own module, the full-size module, new from its class; its weights are not used. A timm
            model needs none.

    Raises:
        InputError: the file is missing or damaged, or ``model`` is missing or of another architecture.

    Examples:
        >>> import mvp_deploy as mvp
        >>> type(mvp.load(run_folder)).__name__  # timm's, from its name
        'ResNet'
    """
    file = Path(path)
    if file.is_dir():
        return runs.load(file).pruned().model
    header = tensorfile.read_header(file)
    if "own" not in header:
        return pruned.load(file).model
    if model is None:
        raise InputError(
            f"{file} holds a module of your own, which its weights alone do not make: pass the full-size module, "
            "mvp.load(path, MyNet())."
        )
    header, sections = tensorfile.load(file, ["weights"])
    parts = analyze(model, torch.zeros(2, *header["input_size"]))
    small = prune(parts, model, KeepPlan.from_json(header["plan"]))
    fit_biases(small, sections["weights"])
    try:
        small.load_state_dict(sections["weights"], strict=True)
    except RuntimeError as error:
        raise InputError(f"The weights in {file} do not fit {type(model).__name__}: {error}") from error
    restate_sizes(small, model, tuple(header["input_size"]))
    return small.eval()


def _outputs(result: Result) -> int:
    with torch.no_grad():
        first, model = next(result.model.parameters()), copy_with(result.model, {})  # it may be in training
        out = model.eval()(torch.zeros(1, *result.input_size, device=first.device, dtype=first.dtype))
    return int(out.shape[-1])
