"""A model's linear layers as matrices: convolutions of any kind and linear layers, found by running the model.

Every such layer is y = W x + b at each place of its output, where x are the numbers the layer reads there: a row. The
layers are recognised by the calls that use a parameter of the model as their weight, so eager modules and recorded
programs look the same, and no model's name counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mvp_deploy.structure import Structure, UnitGroup
from mvp_deploy.structure.fakes import fake_copy, fake_inputs, named_tensors, quiet
from mvp_deploy.structure.listening import open_functionals
from mvp_deploy.structure.structure import Member


@dataclass(frozen=True)
class Window:
    """What a convolution reads for one place of its output; pairs are (down, across)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]  # left, right, top, bottom, as torch.nn.functional.pad takes it

    def places(self, height: int, width: int) -> tuple[int, int]:
        """How many places it takes on an input of that size, padding included, down and across."""
        return tuple(  # type: ignore[return-value]
            (length - dilation * (kernel - 1) - 1) // stride + 1
            for length, kernel, stride, dilation in zip(
                (height, width), self.kernel, self.stride, self.dilation, strict=True
            )
        )

    def reads(self, height: int, width: int) -> Tensor:
        """Where each place reads in the flattened input (its size, padding included): int64 [places, kernel]."""
        down, across = (
            stride * torch.arange(places)[:, None] + dilation * torch.arange(kernel)
            for places, kernel, stride, dilation in zip(
                self.places(height, width), self.kernel, self.stride, self.dilation, strict=True
            )
        )
        return (width * down[:, None, :, None] + across[None, :, None, :]).flatten(2).flatten(0, 1)


@dataclass(frozen=True)
class LinearLayer:
    """A convolution or linear layer whose weight is a parameter of the model.

    weight, bias: the parameters' names. norm: the ``running_mean`` of the batch norm that alone reads the output.
    groups: of a convolution, each a matrix of its own. columns: how many inputs each has. window: None for a linear
    layer. calls: how often the model runs it.
    """

    weight: str
    bias: str | None
    norm: str | None
    groups: int
    outputs: int
    columns: int
    window: Window | None
    reads: int
    calls: int = 1

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight [out, in/groups, ...] as [groups, out/groups, columns]; reshape undoes it."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def places(self, x: Tensor) -> int:
        """How many places of the output each item of ``x`` (along its first axis) has."""
        if self.window is None:
            return x.shape[1:-1].numel()
        left, right, top, bottom = self.window.padding
        height, width = _plane(x).shape[2:]
        down, across = self.window.places(height + top + bottom, width + left + right)
        return down * across

    def inputs(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """What each place reads: [groups, n, columns], item after item, for all places or those ``at`` (int64)."""
        if self.window is None:
            rows = x.reshape(len(x), -1, x.shape[-1])
            return (rows if at is None else rows[:, at]).reshape(1, -1, x.shape[-1])
        x = functional.pad(_plane(x), self.window.padding)
        items, channels, height, width = x.shape
        if self.groups == 1 and self.window.kernel == (1, 1):  # a view where channels are last in memory
            down, across = self.window.stride
            rows = x[:, :, ::down, ::across].permute(0, 2, 3, 1).flatten(1, 2)
            return (rows if at is None else rows[:, at]).reshape(1, -1, channels)
        reads = self.window.reads(height, width).to(x.device)
        patches = x.flatten(2)[:, :, reads if at is None else reads[at]]  # [items, channels, places, kernel]
        places = patches.shape[2]
        patches = patches.reshape(items, self.groups, channels // self.groups, places, -1)
        return patches.permute(1, 0, 3, 2, 4).reshape(self.groups, items * places, -1)

    def results(self, y: Tensor) -> Tensor:
        """The layer's output as [groups, n, out/groups], in the order of `inputs`."""
        rows = y.reshape(len(y), -1, y.shape[-1]) if self.window is None else y.flatten(2).mT
        return rows.reshape(-1, self.groups, y.shape[-1 if self.window is None else 1] // self.groups).transpose(0, 1)

    def input_units(self, structure: Structure, group: UnitGroup) -> np.ndarray:
        """For each column, the unit of ``group`` that it reads, or -1: int64 [groups, columns]."""
        units = np.full((self.groups, self.columns), -1)
        for member in _of(group, self.weight):
            ids = structure.unit_ids(group, member)
            if member.dim == 1:
                inside = np.repeat(ids, self.columns // len(ids))
                units = np.where(inside >= 0, inside, units)
            elif (
                member.dim == 0 and self.groups > 1
            ):  # what tells the convolution's groups apart tells its inputs apart
                ids = ids.reshape(self.groups, -1)
                whole = (ids == ids[:, :1]).all(1)
                units = np.where((whole & (ids[:, 0] >= 0))[:, None], ids[:, :1], units)
        return units

    def output_units(self, structure: Structure, group: UnitGroup) -> np.ndarray:
        """For each output, the unit of ``group`` that it makes, or -1: int64 [groups, out/groups]."""
        shape = self.groups, self.outputs // self.groups
        for member in _of(group, self.weight):
            if member.dim == 0:
                return structure.unit_ids(group, member).reshape(shape)
        return np.full(shape, -1)


Visit = Callable[[LinearLayer, Tensor, Tensor], Tensor | None]
Before = Callable[[LinearLayer, Tensor, Tensor | None], None]


class LinearCalls(TorchFunctionMode):
    """While it is open, calls ``visit(layer, input, output)`` after each run of a linear layer of ``model``.

    What `visit` returns, if anything, takes the output's place. Later calls of the model may overwrite both tensors.
    before: called with layer, input and bias before the layer runs.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, LinearLayer],
        visit: Visit | None = None,
        *,
        before: Before | None = None,
    ) -> None:
        super().__init__()
        tensors = dict(named_tensors(model))
        self.layers = {id(tensors[name]): layer for name, layer in layers.items()}
        self.visit, self.before = visit, before
        self.open = open_functionals()

    def __enter__(self) -> Any:
        self.open.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.open.__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        bound = _bound(function, args, kwargs or {})
        layer = self.layers.get(id(bound.weight)) if bound else None
        if bound is not None and layer is not None and self.before is not None:
            self.before(layer, bound.input, bound.bias)
        out = function(*args, **(kwargs or {}))
        if bound is None or layer is None or self.visit is None:
            return out
        changed = self.visit(layer, bound.input, out)
        return out if changed is None else changed


def linear_layers(model: nn.Module, example: tuple[Tensor, ...]) -> dict[str, LinearLayer]:
    """The linear layers of ``model`` by their weight's name, in the order in which they first run.

    The model is run on tensors without values of the shapes of ``example`` (its inputs, as `Structure.example`).
    """
    try:
        return _found(model, example, None)
    except RuntimeError:  # tensors that its forward makes lie on another device than meta
        return _found(model, example, FakeTensorMode(allow_non_fake_inputs=True))


def _found(model: nn.Module, example: tuple[Tensor, ...], mode: FakeTensorMode | None) -> dict[str, LinearLayer]:
    fake = fake_copy(model, mode, lambda name, tensor: list(tensor.shape))
    finder = _Finder(fake, len(example[0]))
    with torch.no_grad(), mode or nullcontext(), quiet(), open_functionals(), finder:
        fake(*fake_inputs(example, fake, mode))
    return finder.finished()


@dataclass
class _Call:
    """One call of a function that may be a linear layer."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    window: Window | None
    groups: int


def _bound(function: Any, args: Any, kwargs: dict[str, Any]) -> _Call | None:
    signature = SIGNATURES.get(getattr(function, "__name__", ""))
    return signature(*args, **kwargs) if signature else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Call:
    return _Call(input, weight, bias, None, 1)


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Call:
    kernel, stride, dilation = _pair(weight.shape[2:]), _pair(stride, weight), _pair(dilation, weight)
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        sides = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
    else:
        down, across = _pair(0 if padding == "valid" else padding, weight, 0)
        sides = (across, across, down, down)
    return _Call(input, weight, bias, Window(kernel, stride, dilation, sides), int(groups))


SIGNATURES: Mapping[str, Callable[..., _Call]] = {"linear": _linear, "conv2d": _convolution, "conv1d": _convolution}


def _pair(value: Any, weight: Tensor | None = None, single: int = 1) -> tuple[int, int]:
    """(down, across) of an argument of a convolution; one-dimensional ones run across, with ``single`` down."""
    values = [value] if isinstance(value, int) else list(value)
    across = len(values) == 1 and (weight is None or weight.ndim == 3)
    down = single if across else values[0]
    return int(down), int(values[-1])


class _Finder(TorchFunctionMode):
    """Notes the linear layers that run, and for each the functions that read its output."""

    def __init__(self, model: nn.Module, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.names = {id(tensor): name for name, tensor in model.named_parameters()}
        self.buffers = {id(tensor): name for name, tensor in model.named_buffers()}
        self.found: dict[str, LinearLayer] = {}
        self.made: dict[int, tuple[Tensor, str]] = {}  # outputs, held so that ids stay theirs, and whose they are
        self.readers: dict[str, list[str | None]] = {}  # per layer, the batch norms (None: others) that read it

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, (Tensor, tuple, list)):
            for tensor in (t for t in args if isinstance(t, Tensor) and id(t) in self.made):
                norm = self.buffers.get(id(args[3])) if getattr(function, "__name__", "") == "batch_norm" else None
                self.readers[self.made[id(tensor)][1]].append(norm)
        call = _bound(function, args, kwargs or {})
        if call is not None and id(call.weight) in self.names:
            self._note(self.names[id(call.weight)], call, out)
        return out

    def _note(self, name: str, call: _Call, out: Tensor) -> None:
        self.made[id(out)] = out, name
        if name in self.found:
            self.found[name] = replace(self.found[name], calls=self.found[name].calls + 1)
            return
        self.readers[name] = []
        self.found[name] = LinearLayer(
            weight=name,
            bias=None if call.bias is None else self.names.get(id(call.bias)),
            norm=None,
            groups=call.groups,
            outputs=call.weight.shape[0],
            columns=call.weight.shape[1:].numel(),
            window=call.window,
            reads=call.input.numel() // self.batch,
        )

    def finished(self) -> dict[str, LinearLayer]:
        def norm(name: str) -> str | None:
            readers = self.readers[name]
            return readers[0] if len(readers) == 1 else None

        return {name: replace(layer, norm=norm(name)) for name, layer in self.found.items()}


def _plane(x: Tensor) -> Tensor:
    """The input of a convolution as [items, channels, height, width]."""
    return x if x.ndim == 4 else x[:, :, None]


def _of(group: UnitGroup, tensor: str) -> list[Member]:
    return [member for member in group.members if member.tensor == tensor]
