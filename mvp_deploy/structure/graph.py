"""The graph form: the smaller model as a recorded program, for modules whose forward cannot take the new sizes.

Some forwards compute one size from another («channels // heads» where both shrink on their own), so no attribute
makes them right. A `Recorder` writes down every call of a run on fake tensors as a node of an fx graph. The numbers
that were given as sizes are known by the axes they measure, so for any plan they can be rewritten: a plain number, or
a multiple of the batch size.
"""

from __future__ import annotations

import copy
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure.axes import Axis

if TYPE_CHECKING:
    from mvp_deploy.structure.blocks import Block


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


def changes_its_input(node: fx.Node) -> bool:
    """Whether a node does more than give a value, so that it stays although nothing reads it."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("placeholder", "output") or name.endswith("_")


@dataclass(frozen=True)
class Constant:
    """The number at `place` among the arguments of `node` measures `axis`, from the end if `negative`."""

    node: fx.Node
    place: int
    axis: Axis
    negative: bool = False


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
            if user.op != "output" and changes_its_input(user):  # others read the stream
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
    graph.eliminate_dead_code(changes_its_input)


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
