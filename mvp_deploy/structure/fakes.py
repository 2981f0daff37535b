"""Fake copies of models, and running operators on them in little time.

Fake tensors have shapes but no data, so they cost no memory and no arithmetic. Running an operator on them still takes
Python up to half a millisecond, so the commonest ones are cut short here.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._python_dispatch import TorchDispatchMode

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure.caches import note

_LIKE_THEIR_INPUT = {"gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "relu", "sigmoid"}


def call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on fake tensors; what would be taken apart there, which takes most of the time, is cut short."""
    name = func._schema.name.removeprefix("aten::")
    if name.removesuffix("_") in _LIKE_THEIR_INPUT:
        return args[0] if name.endswith("_") else _empty_like(args[0])
    if func is torch.ops.aten.native_batch_norm.default:
        return _empty_like(args[0]), None, None  # what only a backward pass reads
    if func is torch.ops.aten.native_layer_norm.default and tuple(args[0].shape[-len(args[1]) :]) == tuple(args[1]):
        return _empty_like(args[0], torch.contiguous_format), None, None
    if func is torch.ops.aten.convolution.default and _all_fake(args[:3]):
        mode, device = args[0].fake_mode, args[0].device
        with in_kernel_invocation_manager(mode):  # its shapes as on the meta device, past FakeTensorMode's bookkeeping
            return FakeTensor(mode, func(*args, **kwargs), device)
    return func(*args, **kwargs)


def _empty_like(x: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    if not isinstance(x, FakeTensor):
        return torch.empty_like(x, memory_format=memory_format)
    with in_kernel_invocation_manager(x.fake_mode):
        empty = torch.empty_like(x, memory_format=memory_format)
    return FakeTensor(x.fake_mode, empty, x.device)


def _all_fake(tensors: tuple[Any, ...]) -> bool:
    """Whether what is a tensor among them is fake, and all on one device."""
    there = [t for t in tensors if t is not None]
    return all(isinstance(t, FakeTensor) and t.device == there[0].device for t in there)


class QuickOperators(TorchDispatchMode):
    """Runs operators on fake tensors and does nothing else."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = call(func, args, kwargs or {})
        note(out)
        return out


@contextmanager
def quiet() -> Iterator[None]:
    """While open, torch logs no tracebacks of operators that fail on fakes: our callers say so in a sentence."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was


def fake_copy(model: nn.Module, mode: FakeTensorMode | None, shapes: Callable[[str, Tensor], list[int]]) -> nn.Module:
    """A copy of `model` with every parameter and buffer fake, of the shape that `shapes(name, tensor)` gives.

    Without a `mode` they lie on the meta device.
    """
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model):
        meta = torch.empty(shapes(name, tensor), dtype=tensor.dtype, device="meta")
        fake: Tensor = meta if mode is None else FakeTensor(mode, meta, tensor.device)
        if isinstance(tensor, nn.Parameter):
            fake._is_param = True  # type: ignore[attr-defined]  # nn.Parameter(fake), without a detached copy
        memo[id(tensor)] = fake
    return copy_with(model, memo).eval()


def copy_with(model: nn.Module, tensors: dict[int, Any]) -> nn.Module:
    """A deep copy of `model` with other tensors: `tensors` has them by the id of those they stand for.

    Raises:
        MvpError: it holds a tensor that was computed from its weights, which cannot be copied.
    """
    memo = dict(tensors)
    for module in model.modules():  # most of what a module holds are empty tables of hooks, slow to copy one by one
        memo.update((id(v), OrderedDict()) for v in vars(module).values() if type(v) is OrderedDict and not v)
    try:
        return copy.deepcopy(model, memo)
    except RuntimeError as error:
        if "deepcopy protocol" not in str(error):
            raise
        raise StructureError(
            f"{type(model).__name__} cannot be copied, since it keeps a tensor that was computed from its weights. "
            "Remove what recomputes a weight each time (torch.nn.utils: remove_weight_norm, prune.remove)."
        ) from error


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer once, by its first name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def all_names(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def fake_inputs(example: tuple[Tensor, ...], model: nn.Module, mode: FakeTensorMode | None) -> list[Tensor]:
    """Fakes of `example` on the device of `model`."""
    device = device_of(model)
    with mode or nullcontext():
        return [torch.empty_like(t, device=device) for t in example]


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter of `model` lies; the CPU for a model without any."""
    return next((t.device for t in model.parameters()), torch.device("cpu"))
