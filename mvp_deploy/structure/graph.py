"""The graph form: the smaller model as a traced program, for modules whose forward cannot take the new sizes.

Some forwards compute one size from another («channels // heads» where both shrink on their own), so no attribute
makes them right. The program that torch.export records has every size as a constant of one of its nodes. Seen that
way a program is a module whose attributes are those constants, and the same analysis and the same solver set them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from mvp_deploy.errors import DeployError
from mvp_deploy.structure.sizes import Attribute, Size, Uses

_TRAINING_ARGUMENT = {"batch_norm": 5, "instance_norm": 5, "dropout": 2, "feature_dropout": 2, "alpha_dropout": 2}
"""Operators that behave differently in training, and the place of the argument that says so."""


class TracedModel(fx.GraphModule):
    """A traced program that trains, switches between train and eval, saves and exports like an ordinary module.

    `why` says what kept the eager module from running at its new sizes.
    """

    why: str = ""

    def train(self, mode: bool = True) -> TracedModel:
        for node in self.graph.nodes:
            place = _TRAINING_ARGUMENT.get(node.target._schema.name.removeprefix("aten::")) if _is_aten(node) else None
            if place is not None and len(node.args) > place:
                node.update_arg(place, mode)
        self.recompile()
        super().train(mode)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedModel:
        root = nn.Module()
        root.__dict__ = copy.deepcopy(self.__dict__, memo)
        twin = TracedModel(root, root.__dict__["_graph"])
        twin.why = self.why
        return twin


def _is_aten(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"


def trace_program(model: nn.Module, example: tuple[Tensor, ...]) -> TracedModel:
    """`model` as a program with the same parameters (not copies) under the same names, for any batch size.

    Raises:
        DeployError: torch.export cannot record the model.
    """
    device = next((t.device for t in model.parameters()), torch.device("cpu"))
    inputs = tuple(torch.zeros((max(2, t.shape[0]), *t.shape[1:]), dtype=t.dtype, device=device) for t in example)
    training = {m for m in model.modules() if m.training}
    model.eval()
    try:
        batch = torch.export.Dim("batch")
        exported = torch.export.export(model, inputs, dynamic_shapes=[{0: batch} for _ in inputs], strict=False)
        program = exported.module(check_guards=False)
    except Exception as error:
        raise DeployError(f"torch.export cannot record {type(model).__name__}: {error}") from error
    finally:
        for module in training:
            module.training = True
    for node in reversed(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
        elif node.target in (operator.add, operator.sub, operator.mul, operator.floordiv):
            _copy_for_each_user(node)
    return TracedModel(program, program.graph)


def _copy_for_each_user(node: fx.Node) -> None:
    """torch.export computes equal sizes once («batch times heads» of all layers); cut, they may differ."""
    for user in list(node.users)[1:]:
        with node.graph.inserting_before(user):
            user.replace_input_with(node, node.graph.node_copy(node))


def constants(program: fx.GraphModule) -> Iterator[tuple[Attribute, int]]:
    """Every integer among the arguments of the program's operators, as an attribute of its node."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            for place, value in enumerate(tree_flatten((node.args, node.kwargs))[0]):
                if isinstance(value, int) and not isinstance(value, bool):
                    yield Attribute(node.name, "constant", place, value), value


def tag_constants(program: fx.GraphModule, uses: Uses) -> None:
    """Replace the program's integer constants by `Size`s."""
    set_constants(program, {a: Size.of(value, a, uses) for a, value in constants(program)})


def set_constants(program: fx.GraphModule, sizes: Mapping[Attribute, int]) -> None:
    """Give constants new values; attributes that are none of this program's constants are left out."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            leaves, spec = tree_flatten((node.args, node.kwargs))
            new = [sizes.get(Attribute(node.name, "constant", place), leaf) for place, leaf in enumerate(leaves)]
            if any(a is not b for a, b in zip(leaves, new, strict=True)):
                node.args, node.kwargs = tree_unflatten(new, spec)
    program.recompile()
