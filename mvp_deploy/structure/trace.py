"""Running a model once on fake tensors, and telling the rules of every operator that ran.

Fake tensors have shapes but no data, so a model of any size is traced in milliseconds and without memory. The run
goes over a copy of the model whose integer attributes are `Size`s: where one of them reaches an operator as a size,
it is known which dimension it stands for (see sizes.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mvp_deploy.structure import rules
from mvp_deploy.structure.atoms import Atoms, product
from mvp_deploy.structure.axes import Axis, Reason, axis_size, fixed
from mvp_deploy.structure.bind import bound
from mvp_deploy.structure.caches import note
from mvp_deploy.structure.calls import Call, CallMode, leaves_in, numbers_given, tensors_in
from mvp_deploy.structure.fakes import call, fake_copy, fake_inputs, named_tensors, quiet
from mvp_deploy.structure.flow import INPUT, Flow
from mvp_deploy.structure.listening import module_paths, open_functionals
from mvp_deploy.structure.observe import observe, sized_shape
from mvp_deploy.structure.recorder import Recorder
from mvp_deploy.structure.sizes import Observation, Size, Uses, tag_sizes

RECORDED_BATCH = 7
"""Batch size of a run that is recorded: a number that nothing else has as its size."""


Ran = tuple[str, str, int]
"""One run of an operator: the module that ran it, its name, and how often that module ran it before."""


@dataclass(frozen=True)
class MacTerm:
    """Multiply-accumulates of the call at place `call` of the forward: `factor` times the sizes of `axes`."""

    factor: int
    axes: tuple[Axis, ...]
    call: int


@dataclass(frozen=True)
class OverWhatStays:
    """An operator whose result depends on which units of the axes `over` stay.

    `inputs` and `outputs` are the axes of what it is given and gives, tensor by tensor. `exact` ones are norms, whose
    statistics are taken over the units that stay by definition of «silenced»; the others mix units, so that the full
    model computes something else.
    """

    over: tuple[Axis, ...]
    inputs: tuple[tuple[Axis, ...], ...]
    outputs: tuple[tuple[Axis, ...], ...]
    exact: bool


@dataclass
class Trace:
    """What one run of the model showed. Axes of tensors are per dimension."""

    atoms: Atoms = field(default_factory=Atoms)
    tensors: dict[int, tuple[Tensor, list[Axis]]] = field(default_factory=dict)
    initial: dict[str, list[Axis]] = field(default_factory=dict)  # first axes of parameters and buffers
    names: dict[int, str] = field(default_factory=dict)  # id of a fake parameter or buffer -> its first name
    used: list[str] = field(default_factory=list)  # parameters and buffers, in the order they were first used
    macs: list[MacTerm] = field(default_factory=list)
    ran: Counter[tuple[str, str]] = field(default_factory=Counter)  # how often each module ran each operator
    over_what_stays: dict[Ran, OverWhatStays] = field(default_factory=dict)
    squares: set[int] = field(default_factory=set)  # ids of tensors that are squares of others
    numbers: dict[int, float] = field(default_factory=dict)  # ids of buffers that are one number, such as a bound
    loud: dict[int, Tensor] = field(default_factory=dict)  # tensors not zero where units are silent, by their storage
    observations: list[Observation] = field(default_factory=list)
    uses: Uses = field(default_factory=Uses)
    calls: list[Call] = field(default_factory=list)
    flow: Flow = field(default_factory=Flow)
    unknown: dict[str, int] = field(default_factory=dict)  # operators without a rule, and how often they ran
    taught: dict[str, str] = field(default_factory=dict)  # operators whose rule is the user's, and the rule's name
    allow_inexact: bool = False
    inexact: list[tuple[Reason, Axis]] = field(default_factory=list)  # operators that mix units, where that is allowed
    recorder: Recorder | None = None
    batch: Axis = ()  # the inputs' first axis, where it is recorded for any batch size
    groups: Axis = ((),)  # the groups of the grouped operator that ran last
    why: Reason = Reason("")  # noqa: RUF009  # the operator running now, and where
    over: list[Axis] = field(default_factory=list)  # what the operator running now is taken over, if it is a norm,
    mixed: list[Axis] = field(default_factory=list)  # or mixes although its units may go
    module: str = ""

    def axes(self, tensor: Tensor) -> list[Axis]:
        """The axes of `tensor`, one per dimension; a tensor that came from nowhere known is fixed."""
        known = self.tensors.get(id(tensor))
        return known[1] if known else [fixed(n) for n in tensor.shape]

    def axis(self, tensor: Tensor, dim: int) -> Axis:
        """The axis of one dimension of `tensor`; negative `dim` counts from the end."""
        return self.axes(tensor)[dim]

    def set(self, tensor: Tensor, axes: list[Axis]) -> None:
        """Say what the dimensions of an output are made of, one axis each."""
        self.tensors[id(tensor)] = (tensor, axes)  # held, so that the id is not reused

    def unify(self, x: Axis, y: Axis) -> None:
        """Say that two axes are the same units: they stay or go together."""
        self.atoms.unify(x, y, self.why)

    def freeze(self, axis: Axis, *, part: Literal["kernel", "scale"] | None = None, note: str = "") -> None:
        """Keep `axis` whole because of the operator that runs now.

        Args:
            axis: none of its units can go.
            part: what of the operator says so, where it is not the whole of it.
            note: appended to the reason that users read.
        """
        self.atoms.freeze(axis, replace(self.why, part=part, note=note))

    def product(self, *axes: Axis) -> Axis:
        """The axis that flattening dimensions into one gives, the major dimension first."""
        return product(axes, self.atoms, self.why)

    def cut(self, axis: Axis, start: int, stop: int) -> Axis:
        """The positions [start, stop) of an axis."""
        return self.atoms.cut(axis, start, stop, self.why)

    def mix(self, axis: Axis) -> None:
        """The operator mixes the units of `axis`: none of them goes, unless inexact removal is allowed."""
        if self.allow_inexact:
            self.mixed.append(axis)
            self.inexact.append((self.why, axis))
        else:
            self.freeze(axis)

    @contextmanager
    def running(self, name: str, given: list[Tensor], out: Any) -> Iterator[None]:
        """While open, operator `name` is explained by its rule; the tensors `given` freeze if that fails."""
        self.over, self.mixed = [], []
        try:
            yield
            for tensor in tensors_in(out):
                if [axis_size(axis) for axis in self.axes(tensor)] != list(tensor.shape):
                    raise ValueError(f"it speaks of another shape than {list(tensor.shape)}")
        except Exception as error:
            self.not_understood(name, given, out, replace(self.why, note=f", whose rule fails ({error!r})"))
        if self.over or self.mixed:
            inputs, outputs = (tuple(tuple(self.axes(t)) for t in tensors) for tensors in (given, tensors_in(out)))
            over = (*self.over, *self.mixed)
            self.over_what_stays[self.module, name, self.ran[self.module, name]] = OverWhatStays(
                over, inputs, outputs, exact=not self.mixed
            )
        self.ran[self.module, name] += 1

    def not_understood(self, name: str, given: list[Tensor], out: Any, why: Reason) -> None:
        """Freeze what went into an operator, of which nothing is known; what came out is fixed then."""
        for tensor in given:
            for axis in self.axes(tensor):
                self.atoms.freeze(axis, why)
        for tensor in tensors_in(out):
            self.tensors.pop(id(tensor), None)
        if given:
            self.unknown[name] = self.unknown.get(name, 0) + 1

    def count(self, factor: int, *axes: Axis) -> None:
        """Note multiply-accumulates: `factor` times the sizes of `axes`."""
        self.macs.append(MacTerm(int(factor), axes, len(self.calls)))

    def note_use(self, tensor: Tensor) -> None:
        name = self.names.pop(id(tensor), None)
        if name is not None:
            self.used.append(name)


class _Operators(TorchDispatchMode):
    """Sees every ATen operator, below autograd, where composite operators are already taken apart."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self.paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = call(func, args, kwargs)
        note(out)
        if not self.paused and func.namespace != "prim":
            trace = self.trace
            trace.why = Reason(func._schema.name.removeprefix("aten::"), trace.module)
            rules.apply(trace, func, args, kwargs, out)
        return out


_SHAPES = {torch.Tensor.shape.__get__, torch.Tensor.size, torch.ops.aten.sym_size.int}  # type: ignore[attr-defined]


class _Functions(CallMode):
    """Sees calls as the model wrote them: attention before it is taken apart, and sizes while they are tagged."""

    def __init__(self, trace: Trace, operators: _Operators) -> None:
        super().__init__()
        self.trace, self.operators = trace, operators

    def call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        trace = self.trace
        if func in _SHAPES:
            return sized_shape(trace, args[0], func(*args, **kwargs), *args[1:], **kwargs)
        whole = rules.FUNCTIONS.get(name)
        self.operators.paused = whole is not None
        try:
            out = func(*args, **kwargs)
        finally:
            self.operators.paused = False
        given = bound(func, args, kwargs)
        if whole is not None:
            trace.why = Reason(name, trace.module)
            with trace.running(name, list(tensors_in(given)), out):
                whole(trace, *given, out)
                rules.silent.follow(trace, name, func, *given, out)
        observe(trace, name, *given, out)
        tensors = list(tensors_in(out)) if isinstance(out, (Tensor, tuple, list)) else []
        if tensors or name == "__setitem__":
            numbers = numbers_given(name, args, kwargs)
            trace.calls.append(Call(name, trace.module, numbers, tuple(tuple(trace.axes(t)) for t in tensors)))
            trace.flow.call(name, args, kwargs, out)
        if trace.recorder is not None:
            trace.recorder.call(trace, func, name, args, kwargs, out)
        return out


def run_fake(model: nn.Module, example: tuple[Tensor, ...], trace: Trace, *, training: bool = False) -> Any:
    """Run `model` on fakes of `example`, filling `trace`; returns the fake outputs."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = fake_copy(model, mode, lambda name, tensor: list(tensor.shape)).train(training)
    for name, tensor in named_tensors(fake):
        if name not in trace.initial:
            trace.initial[name] = [trace.atoms.new(n) for n in tensor.shape]
        trace.set(tensor, trace.initial[name])
        trace.names[id(tensor)] = name
        trace.flow.begin(name, tensor)
    for (_, buffer), copied in zip(model.named_buffers(), fake.buffers(), strict=True):
        if buffer.numel() == 1 and not buffer.is_meta:
            trace.numbers[id(copied)] = buffer.item()
    tag_sizes(fake, trace.uses)
    inputs = fake_inputs(example, fake, mode)
    for number, tensor in enumerate(inputs):
        trace.flow.begin(f"{INPUT}{number}", tensor)
    recorder = trace.recorder
    if recorder is not None:
        trace.batch = trace.atoms.new(RECORDED_BATCH)
        for tensor in inputs:
            trace.set(tensor, [trace.batch, *map(fixed, tensor.shape[1:])])
        recorder.inputs(inputs)
        recorder.state(named_tensors(fake))

    def enter(path: str) -> None:
        trace.module = path

    operators = _Operators(trace)
    with (
        torch.no_grad(),
        quiet(),
        mode,
        module_paths(fake, enter),
        open_functionals(),
        operators,
        _Functions(trace, operators),
    ):
        out = fake(*inputs)
    trace.uses.quantities.extend(leaf.origin for leaf in leaves_in(out) if isinstance(leaf, Size))
    trace.flow.end(out)
    if recorder is not None:
        recorder.output(trace, out)
    return out
