"""Writing a forward down as an fx graph, call by call, with what each number that it gives as a size measures."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from mvp_deploy.structure.axes import Axis, atoms_in
from mvp_deploy.structure.bind import bound
from mvp_deploy.structure.graph import Constant, changes_its_input
from mvp_deploy.structure.observe import sizes_given
from mvp_deploy.structure.sizes import Attribute, Formula, Size, Uses, attributes

if TYPE_CHECKING:
    from mvp_deploy.structure.trace import Trace

_TRAINING_ARGUMENT = {"batch_norm": 5, "instance_norm": 5, "dropout": 2, "feature_dropout": 2, "alpha_dropout": 2}
"""Functions that behave differently in training, and the place of the argument that says so."""


@dataclass
class Recorder:
    """Writes the calls of a run down as a graph."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    constants: list[Constant] = field(default_factory=list)
    axes: dict[fx.Node, tuple[Axis, ...]] = field(default_factory=dict)  # of each node's tensor, known after the run
    tensors: dict[str, Tensor] = field(default_factory=dict)  # that the forward used, besides parameters
    values: dict[fx.Node, Tensor] = field(default_factory=dict)  # what each node stands for
    _format: tuple[torch.dtype, fx.Node] | None = None  # the weights' number format, and what asks for it
    _device: tuple[torch.device, fx.Node] | None = None  # where they are, likewise
    _nodes: dict[int, tuple[Any, fx.Node]] = field(default_factory=dict)  # objects are held, so that ids stay theirs

    def inputs(self, tensors: Iterable[Tensor]) -> None:
        for number, tensor in enumerate(tensors):
            self._bind(tensor, self.graph.placeholder(f"input_{number}"))

    def state(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            node = self.graph.get_attr(name)
            self._bind(tensor, node)
            if self._format is None and tensor.is_floating_point():
                self._format = tensor.dtype, self.graph.call_function(getattr, (node, "dtype"))
                self._device = tensor.device, self.graph.call_function(getattr, (node, "device"))

    def output(self, trace: Trace, out: Any) -> None:
        self.graph.output(torch.utils._pytree.tree_map(partial(self._argument, trace), out))
        self.graph.eliminate_dead_code(changes_its_input)

    def call(self, trace: Trace, func: Any, name: str, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Note one call; those that neither give nor change a tensor only told the forward something."""
        if name != "__setitem__" and not any(isinstance(t, Tensor) for t in tree_leaves(out)):
            return
        argument = partial(self._argument, trace)
        given = map_aggregate(args, argument), map_aggregate(kwargs, argument)
        if name in ("to", "type"):
            given = map_aggregate(given, self._number_format)
        if name == "__get__":  # x.T and its like
            node = self.graph.call_function(getattr, (given[0][0], func.__self__.__name__))
        elif func is getattr(torch.Tensor, name, None) or getattr(func, "__module__", "") == "torch._tensor":
            node = self.graph.call_method(name, *given)
        else:
            node = self.graph.call_function(func, *given)
        place = _TRAINING_ARGUMENT.get(name)
        if place is not None and len(args) > place and args[place] is False:  # statistics of its own stay its own
            node.meta["training"] = place
        node.meta["module"] = trace.module
        node.meta["call"] = len(trace.calls) - 1
        self._note_sizes(trace, node, func, name, args, kwargs, out)
        self._bind(out, node)

    def _note_sizes(self, trace: Trace, node: fx.Node, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        place, uses = -1, Uses()

        def number(value: Any) -> Any:
            nonlocal place
            place += 1
            is_number = isinstance(value, int) and not isinstance(value, bool)
            if isinstance(value, Size) and self._is_free(trace, value):
                return int(value)
            return Size.of(int(value), Attribute("", "constant", place), uses) if is_number else value

        numbered = map_aggregate(args, number), map_aggregate(kwargs, number)
        for size, axis in sizes_given(trace, name, *bound(func, *numbered), out):  # type: ignore[arg-type]
            for attribute in attributes(size.origin) if isinstance(size, Size) else ():
                negative = isinstance(size.origin, Formula)
                self.constants.append(Constant(node, attribute.index or 0, axis, negative))

    def _bind(self, value: Any, node: fx.Node) -> None:
        if isinstance(value, Tensor):
            self._nodes[id(value)] = value, node
            self.values[node] = value
        elif isinstance(value, (tuple, list)):
            for place, part in enumerate(value):
                if isinstance(part, (Tensor, tuple, list)):
                    self._bind(part, self.graph.call_function(operator.getitem, (node, place)))

    def _argument(self, trace: Trace, value: Any) -> Any:
        if isinstance(value, Size):
            return self._asked(value) if self._is_free(trace, value) else int(value)
        if self._device and isinstance(value, torch.device) and value == self._device[0]:
            return self._device[1]  # where the weights lie, wherever the program is moved to
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            name = f"recorded_{len(self.tensors)}"
            self.tensors[name] = value
            self._bind(value, self.graph.get_attr(name))
        return self._nodes[id(value)][1]

    def _is_free(self, trace: Trace, size: int) -> bool:
        """Whether a size has nothing to do with units: a program asks its input for it, and follows other images."""
        if not isinstance(size, Size) or not size.told_by:
            return not isinstance(size, Size)
        if len(size.told_by) == 3:
            return all(self._is_free(trace, operand) for operand in size.told_by[1:])
        tensor, dim = size.told_by
        return id(tensor) in self._nodes and set(atoms_in(trace.axis(tensor, dim))) <= set(atoms_in(trace.batch))

    def _asked(self, size: int) -> Any:
        """A size as the program computes it."""
        if not isinstance(size, Size):
            return size
        if len(size.told_by) == 3:
            function, *operands = size.told_by
            return self.graph.call_function(function, tuple(map(self._asked, operands)))
        tensor, dim = size.told_by
        return self.graph.call_method("size", (self._nodes[id(tensor)][1], dim))

    def _number_format(self, value: Any) -> Any:
        """A cast to the weights' own format, as in `.to(x.dtype)`, goes along when the program is moved to another."""
        return self._format[1] if self._format and value is self._format[0] else value
