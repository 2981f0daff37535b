"""The graph form: the smaller model as a recorded program, for modules whose forward cannot take the new sizes.

Some forwards compute one size from another («channels // heads» where both shrink on their own), so no attribute
makes them right. `Recorder` writes down every call of a run on fake tensors as a node of an fx graph. The numbers that
were given as sizes are known by the axes they measure, so for any plan they can be rewritten: a plain number, or
a multiple of the batch size.
"""

from __future__ import annotations

import copy
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure.axes import Axis, atoms_in
from mvp_deploy.structure.bind import bound
from mvp_deploy.structure.observe import sizes_given
from mvp_deploy.structure.sizes import Attribute, Formula, Size, Uses, attributes

if TYPE_CHECKING:
    from mvp_deploy.structure.blocks import Block
    from mvp_deploy.structure.trace import Trace

_TRAINING_ARGUMENT = {"batch_norm": 5, "instance_norm": 5, "dropout": 2, "feature_dropout": 2, "alpha_dropout": 2}
"""Functions that behave differently in training, and the place of the argument that says so."""


class TracedModel(fx.GraphModule):
    """A recorded program that trains, switches between train and eval, saves and exports like an ordinary module.

    `why` says what kept the eager module from running at its new sizes.
    """

    why: str = ""

    def train(self, mode: bool = True) -> TracedModel:
        for node in self.graph.nodes:
            place = node.meta.get("training")
            if place is not None:
                node.update_arg(place, mode)
        self.recompile()
        super().train(mode)
        return self

    def freeze_norms(self) -> None:
        """Let batch norms compute as in eval mode until `train` is called again."""
        for node in self.graph.nodes:
            if "training" in node.meta and getattr(node.target, "__name__", "") == "batch_norm":
                node.update_arg(node.meta["training"], False)
        self.recompile()

    @property
    def has_batch_norms(self) -> bool:
        return any(getattr(node.target, "__name__", "") == "batch_norm" for node in self.graph.nodes)

    def fix_shapes(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Refuse inputs of other shapes than these, the batch size apart: what was recorded depends on them."""
        for node, shape in zip([n for n in self.graph.nodes if n.op == "placeholder"], shapes, strict=True):
            with self.graph.inserting_after(node):
                fixed = self.graph.call_function(_of_shape, (node, tuple(shape[1:])))
            node.replace_all_uses_with(fixed, delete_user_cb=lambda user, fixed=fixed: user is not fixed)
        self.recompile()

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedModel:
        root = nn.Module()
        root.__dict__ = copy.deepcopy(self.__dict__, memo)
        twin = TracedModel(root, root.__dict__["_graph"])
        twin.__dict__.update(
            {name: root.__dict__[name] for name in ("_parameters", "_buffers", "_modules", "training")}
        )
        twin._non_persistent_buffers_set = set(self._non_persistent_buffers_set)
        twin.why = self.why
        return twin


def _of_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape[1:]) != shape:
        raise StructureError(
            f"This recorded program takes inputs of shape {['batch', *shape]}, not {list(tensor.shape)}: sizes are "
            "written into it. Prune the model once more with an example of that size."
        )
    return tensor


def _changes_its_input(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("placeholder", "output") or name.endswith("_")


@dataclass(frozen=True)
class Constant:
    """The number at `place` among the arguments of `node` measures `axis`, from the end if `negative`."""

    node: fx.Node
    place: int
    axis: Axis
    negative: bool = False


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
        self.graph.eliminate_dead_code(_changes_its_input)

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


def set_constants(graph: fx.Graph, constants: Iterable[Constant], measure: Callable[[Axis, int], int]) -> None:
    """Rewrite sizes; `measure(axis, batch)` says how many positions an axis has in a batch of that size."""
    batch: fx.Node | None = None
    first = next(iter(graph.nodes))
    wanted: dict[fx.Node, dict[int, Any]] = defaultdict(dict)
    for constant in constants:
        rest = measure(constant.axis, 0)
        times = measure(constant.axis, 1) - rest
        value: Any = rest
        if times:
            if batch is None:
                with graph.inserting_after(first):
                    batch = graph.call_method("size", (first, 0))
            with graph.inserting_before(constant.node):
                value = batch if times == 1 else graph.call_function(operator.mul, (batch, times))
                value = graph.call_function(operator.add, (value, rest)) if rest else value
                value = graph.call_function(operator.neg, (value,)) if constant.negative else value
        elif constant.negative:
            value = -rest
        wanted[constant.node][constant.place] = value
    for node, values in wanted.items():
        _replace_arguments(node, values)


def _replace_arguments(node: fx.Node, values: Mapping[int, Any]) -> None:
    """Replace the arguments of a call by their places among all that it has, nested ones included."""
    places = count()

    def new(old: Any) -> Any:
        return values.get(next(places), old)

    node.args, node.kwargs = map_aggregate(node.args, new), map_aggregate(node.kwargs, new)


def erase(graph: fx.Graph, blocks: Iterable[Block]) -> None:
    """Take residual branches out of a recorded graph: what they are added to goes on alone.

    Raises:
        StructureError: a branch's size is used elsewhere.
    """
    nodes = {node.meta["call"]: node for node in graph.nodes if "call" in node.meta}
    gone: set[int] = set()
    for block in blocks:
        addition = nodes[block.addition]
        stream: fx.Node = addition.args[1 - block.branch]  # type: ignore[assignment]  # as it was found
        for user in list(addition.users):
            if user.op != "output" and _changes_its_input(user):  # others read the stream
                with graph.inserting_before(user):
                    user.replace_input_with(addition, graph.call_method("clone", (stream,)))
        addition.replace_all_uses_with(stream)
        gone |= block.calls

    def remove(node: fx.Node) -> None:
        for user in list(node.users):
            if user.meta.get("call", -1) not in gone and "call" in user.meta:
                raise StructureError(f"{user} uses the size of a block that is removed.")
            remove(user)
        graph.erase_node(node)

    for call in sorted(gone & nodes.keys(), reverse=True):
        if not nodes[call]._erased:
            remove(nodes[call])
    graph.eliminate_dead_code(_changes_its_input)


def assemble(graph: fx.Graph, state: Mapping[str, Tensor], kept_out: set[str]) -> TracedModel:
    """A module that runs `graph` on `state`; the buffers in `kept_out` are not saved with it."""
    root = nn.Module()
    _fill(root, state, kept_out)
    program = TracedModel(root, graph)
    _fill(program, state, kept_out)  # also what the graph does not use
    return program


def _fill(module: nn.Module, state: Mapping[str, Tensor], kept_out: set[str]) -> None:
    for name, tensor in state.items():
        *path, last = name.split(".")
        owner = module
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        if isinstance(tensor, nn.Parameter):
            owner._parameters[last] = tensor
        else:
            owner.register_buffer(last, tensor, persistent=name not in kept_out)
