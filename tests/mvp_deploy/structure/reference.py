"""An account of «silenced» that owes nothing to the engine's graph: hooks on the full eager model.

Removed units are zeroed where layers with weights put them out and where the layers that read them take them in;
norms over channels are computed on the channels that stay; parameters that no layer's forward uses as its own
(tokens, tables, scales) are zeroed themselves. What a plan removes from each parameter is the plan's own claim; that
the smaller model then computes the same is what is checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvp_deploy.structure import KeepPlan, Structure

Masks = Sequence[np.ndarray | None]  # of one tensor: per dimension which positions stay, None for all


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms, running statistics, scales and weights that start near zero values that removal errors show up in."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor, scale: float) -> Tensor:
        return scale * torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)

    for parameter in model.parameters():
        natural = (parameter.shape[0] / parameter.numel()) ** 0.5 if parameter.ndim > 1 else 0.3  # one over fan-in
        if parameter.ndim < 2 or parameter.detach().std() < 0.1 * natural:
            parameter.data += noise(parameter, min(0.3, natural))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer *= 0.5 + torch.rand(buffer.shape, generator=generator)
        elif name.endswith("running_mean"):
            buffer += noise(buffer, 0.1)
    return model


def random_plan(structure: Structure, seed: int, least: float = 0.25, most: float = 0.9) -> KeepPlan:
    """Of every group a random share between `least` and `most` of its units, at least one."""
    rng = np.random.default_rng(seed)
    masks = {}
    for group in structure.groups:
        kept = max(1, round(group.size * rng.uniform(least, most)))
        masks[group.name] = np.isin(np.arange(group.size), rng.choice(group.size, kept, replace=False))
    return KeepPlan(masks)


def relative_error(got: Any, wanted: Any) -> float:
    """Largest difference over largest value, over all output tensors."""
    pairs = list(zip(_tensors(got), _tensors(wanted), strict=True))
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)


def _tensors(out: Any) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, Tensor)]


def silenced(model: nn.Module, masks: Mapping[str, Masks], example: Tensor | tuple[Tensor, ...]) -> nn.Module:
    """A full-size copy of `model`, in eval mode, in which what `masks` (of its tensors, by name) removes is silent."""
    model = copy.deepcopy(model).eval()
    inputs = example if isinstance(example, tuple) else (example,)
    called = _called_modules(model, inputs)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = {n: masks[prefix + n] for n, _ in _own_tensors(module) if prefix + n in masks}
        silence = _layer(module) if module in called else None
        if silence is not None:
            silence(module, own.get("weight", ()))
            continue
        for name, tensor in _own_tensors(module):
            for dim, mask in enumerate(own.get(name, ())):
                if mask is not None:
                    tensor.data = _zero(tensor.data, mask, dim)
    return model


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _called_modules(model: nn.Module, inputs: tuple[Tensor, ...]) -> set[nn.Module]:
    called: set[nn.Module] = set()
    hooks = [m.register_forward_hook(lambda module, _, __: called.add(module)) for m in model.modules()]
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return called


def _layer(module: nn.Module) -> Callable[[nn.Module, Masks], None] | None:
    """How a known kind of layer is silenced; None for all other modules."""
    if isinstance(module, nn.Linear):
        return lambda m, masks: _silence_layer(m, *_two(masks), dim=-1)
    if isinstance(module, nn.modules.conv._ConvNd):
        return _silence_conv
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return lambda m, masks: _silence_layer(m, masks[0] if masks else None, None, dim=1)
    if isinstance(module, nn.GroupNorm) or hasattr(module, "normalized_shape"):
        return _silence_norm
    return None


def _two(masks: Masks) -> tuple[np.ndarray | None, np.ndarray | None]:
    return (masks[0], masks[1]) if masks else (None, None)


def _silence_layer(module: nn.Module, outs: np.ndarray | None, ins: np.ndarray | None, dim: int) -> None:
    """Zero a layer's removed inputs before it runs and its removed outputs after."""
    if ins is not None:
        module.register_forward_pre_hook(lambda _, args: (_zero(args[0], ins, dim), *args[1:]))
    if outs is not None:
        module.register_forward_hook(lambda _, __, out: _zero(out, outs, dim))


def _silence_conv(conv: nn.Module, masks: Masks) -> None:
    first, second = _two(masks)
    groups = conv.groups
    if second is not None and "Std" in type(conv).__name__:
        _standardise_over(conv, second)
    if groups > 1:  # the second dimension of the weight lists the channels of one group only
        per_group = np.ones(conv.weight.shape[1], bool) if second is None else second
        rows = np.ones(len(conv.weight), bool) if first is None else first
        second = np.outer(rows.reshape(groups, -1).any(1), per_group).ravel()
    outs, ins = (second, first) if conv.transposed else (first, second)
    _silence_layer(conv, outs, ins, dim=-conv.weight.ndim + 1)


def _standardise_over(conv: nn.Module, ins: np.ndarray) -> None:
    """Let a weight-standardised convolution take its kernels' statistics over the inputs (of a group) that stay."""
    smaller = copy.deepcopy(conv)
    smaller.weight = nn.Parameter(conv.weight.detach()[:, torch.from_numpy(ins)])
    places = torch.from_numpy(np.tile(ins, conv.groups)).nonzero().flatten()
    conv.register_forward_hook(lambda _, args, __: smaller(args[0].index_select(1, places)))


def _silence_norm(norm: nn.Module, masks: Masks) -> None:
    """Replace the result by that of a smaller norm over the channels that stay."""
    if len(masks) > 1:
        raise NotImplementedError("norms over several dimensions")
    dim = 1 if isinstance(norm, nn.GroupNorm) or "2d" in type(norm).__name__ else -1
    if masks and masks[0] is None:
        return
    smaller = copy.deepcopy(norm)

    def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        x = args[0]
        alive = x.detach().movedim(dim, 0).flatten(1).abs().amax(1) > 0
        keep = torch.from_numpy(masks[0]) if masks else alive  # without a weight only zeros say what was removed
        _shrink_norm(norm, smaller, keep)
        places = keep.nonzero().flatten()
        small = smaller(x.index_select(dim, places), *args[1:])
        return torch.zeros_like(out).index_copy(dim, places, small)

    norm.register_forward_hook(hook)


def _shrink_norm(norm: nn.Module, smaller: nn.Module, keep: Tensor) -> None:
    for name, parameter in norm.named_parameters(recurse=False):
        smaller._parameters[name] = nn.Parameter(parameter.detach()[keep])
    if isinstance(norm, nn.GroupNorm):
        smaller.num_groups = int(keep.reshape(norm.num_groups, -1).any(1).sum())
    else:
        smaller.normalized_shape = (int(keep.sum()),)


def _zero(x: Tensor, mask: np.ndarray, dim: int) -> Tensor:
    keep = torch.from_numpy(mask).to(x)
    return x * keep.reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
