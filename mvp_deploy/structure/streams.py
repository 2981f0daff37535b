"""Linear streams: channels that are only written and read by linear layers, so that their basis is free.

Between inverted residual blocks nothing but additions happens to the stream, and in a pre-norm transformer nothing but
additions and LayerNorms. Any change of basis can then be folded into the layers that write the stream and into those
that read it, and the model computes what it did. A ReLU, a product of two streams, a depthwise convolution or a batch
norm on the stream ties it to the basis it has. Found from the recorded calls, per operator and never per model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from mvp_deploy.base.errors import MvpError
from mvp_deploy.structure.analysis import record
from mvp_deploy.structure.axes import Atom, Axis, atoms_in
from mvp_deploy.structure.structure import Structure


@dataclass(frozen=True)
class BatchNorm:
    """The names of a batch norm's tensors, and its epsilon."""

    weight: str
    bias: str
    mean: str
    variance: str
    epsilon: float


@dataclass(frozen=True)
class Maker:
    """A linear layer that writes the stream, by its parameters' names; its outputs lie along the weight's dimension 0.

    norm: the batch norm that alone reads it. scale: a vector that then multiplies each channel (layer scale).
    """

    weight: str
    bias: str | None
    norm: BatchNorm | None = None
    scale: str | None = None


@dataclass(frozen=True)
class LayerNorm:
    """A LayerNorm over the stream's channels, by its parameters' names, read by linear layers only."""

    weight: str | None
    bias: str | None


@dataclass(frozen=True)
class Reader:
    """A linear layer that reads the stream along its weight's dimension 1, as it is or through a LayerNorm."""

    weight: str
    bias: str | None
    norm: LayerNorm | None


@dataclass(frozen=True)
class Offset:
    """A parameter that is added to the stream or laid beside it, such as position embeddings; ``dim`` runs along it."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class Stream:
    """A linear stream: ``group`` names the unit group of its channels."""

    group: str
    size: int
    makers: tuple[Maker, ...]
    readers: tuple[Reader, ...]
    offsets: tuple[Offset, ...]

    @property
    def normed(self) -> bool:
        """Whether LayerNorms read it: then only rotations that keep the sum of channels are free."""
        return any(reader.norm is not None for reader in self.readers)


class _Tied(Exception):
    """The stream needs the basis it has."""


def linear_streams(model: nn.Module, structure: Structure) -> tuple[Stream, ...]:
    """The linear streams of ``model``; none for a model that cannot be recorded for any batch size."""
    try:
        recorded, recorder, _ = record(model, structure.example, allow_inexact=structure.allow_inexact)
    except MvpError:
        return ()
    known = {group.name: group.size for group in structure.groups}
    streams = []
    for group in recorded.groups:
        if group.kind != "channel" or known.get(group.name) != group.size:
            continue
        finder = _Finder(recorder.graph, recorder.axes, recorded._atoms[group.name])
        try:
            streams.append(finder.stream(group.name, {member.tensor for member in group.members}))
        except _Tied:
            continue
    return tuple(streams)


_PASS = {
    "dropout", "permute", "transpose", "swapaxes", "movedim", "view", "reshape", "flatten", "unflatten", "squeeze",
    "unsqueeze", "contiguous", "clone", "detach", "to", "expand", "cat", "concat", "getitem", "__getitem__", "select",
    "narrow", "roll", "mean", "adaptive_avg_pool2d", "avg_pool2d",
}  # fmt: skip
"""Functions that move or average positions and do nothing to channels."""


class _Finder:
    """Follows one group's values through the recorded calls."""

    def __init__(self, graph: fx.Graph, axes: Mapping[fx.Node, tuple[Axis, ...]], atom: Atom) -> None:
        self.graph, self.axes, self.atom = graph, axes, atom
        self.makers: dict[fx.Node, Maker] = {}  # by the node that stands for its output so far
        self.readers: list[Reader] = []
        self.offsets: dict[str, Offset] = {}
        self.normed: dict[fx.Node, LayerNorm] = {}  # nodes whose value has gone through a LayerNorm
        self.used: set[str] = set()  # tensors accounted for

    def stream(self, name: str, members: set[str]) -> Stream:
        for node in self.graph.nodes:
            if node.op in ("call_function", "call_method"):
                inputs = [n for n in node.all_input_nodes if self._carries(n)]
                if inputs or self._carries(node):
                    self._follow(node, inputs)
            elif node.op == "output" and any(self._carries(n) for n in node.all_input_nodes):
                raise _Tied
        makers = tuple(self.makers.values())
        if not makers or not self.readers or members - self.used:
            raise _Tied
        return Stream(name, self.atom.size, makers, tuple(self.readers), tuple(self.offsets.values()))

    def _carries(self, node: fx.Node) -> bool:
        return any(self.atom in atoms_in(axis) for axis in self.axes.get(node, ()))

    def _dim(self, node: fx.Node) -> int:
        """The one dimension of the node's value along which the stream's channels lie, and nothing else."""
        dims = [d for d, axis in enumerate(self.axes[node]) if self.atom in atoms_in(axis)]
        if len(dims) != 1 or self.axes[node][dims[0]] != ((self.atom,),):
            raise _Tied
        return dims[0]

    def _follow(self, node: fx.Node, inputs: list[fx.Node]) -> None:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        name = name.removesuffix("_") if not name.startswith("__") else name
        if name == "size":
            pass  # a number of positions
        elif name in ("conv1d", "conv2d", "conv3d", "linear"):
            self._linear(node, name)
        elif name == "batch_norm":
            self._batch_norm(node)
        elif name == "layer_norm":
            self._layer_norm(node)
        elif name in ("mul", "__mul__", "__rmul__"):
            self._scale(node)
        elif name in ("add", "__add__", "__iadd__", "sub", "__sub__"):
            self._same(node, inputs)
            if len(inputs) != 2 or any(n in self.normed for n in inputs) or node.kwargs:
                raise _Tied
        elif name in _PASS:
            self._same(node, inputs)
            if any((n in self.normed) != (inputs[0] in self.normed) for n in inputs):
                raise _Tied
            if name in ("cat", "concat") and len(inputs) != len(node.all_input_nodes):
                raise _Tied
            if inputs[0] in self.normed:
                self.normed[node] = self.normed[inputs[0]]
            if inputs[0] in self.makers and len(inputs[0].users) == 1:
                self.makers[node] = self.makers.pop(inputs[0])
        else:
            raise _Tied

    def _same(self, node: fx.Node, inputs: list[fx.Node]) -> None:
        """The call keeps channels apart; parameters among its inputs belong to the stream."""
        if not inputs or not self._carries(node):
            raise _Tied
        self._dim(node)
        for value in inputs:
            dim = self._dim(value)
            if value.op == "get_attr":
                self._account(value)
                self.offsets[str(value.target)] = Offset(str(value.target), dim)

    def _linear(self, node: fx.Node, name: str) -> None:
        x, weight, bias = _three(node)
        groups = node.args[6] if name != "linear" and len(node.args) > 6 else node.kwargs.get("groups", 1)
        if weight.op != "get_attr" or groups != 1 or (bias is not None and bias.op != "get_attr"):
            raise _Tied
        if str(weight.target) in self.used:  # it runs twice: what is folded in would count twice
            raise _Tied
        names = str(weight.target), None if bias is None else str(bias.target)
        if self._carries(x):
            if self._dim(x) != (len(self.axes[x]) - 1 if name == "linear" else 1) or not self._along(weight, 1):
                raise _Tied
            self.readers.append(Reader(*names, self.normed.get(x)))
            self._account(weight)
        if self._carries(node):
            if not self._along(weight, 0):
                raise _Tied
            self._dim(node)
            self.makers[node] = Maker(*names)
            self._account(weight, bias)

    def _along(self, weight: fx.Node, dim: int) -> bool:
        """Whether the weight's dimension holds the stream's channels and nothing else."""
        return self.axes[weight][dim] == ((self.atom,),)

    def _batch_norm(self, node: fx.Node) -> None:
        given: list[Any] = list(node.args)
        x, tensors = given[0], given[1:5]
        maker = self._only_maker(x)
        if maker.norm is not None or maker.scale is not None or not all(isinstance(t, fx.Node) for t in tensors):
            raise _Tied
        weight, bias, mean, variance = (str(tensor.target) for tensor in tensors)
        self.makers[node] = replace(maker, norm=BatchNorm(weight, bias, mean, variance, float(given[7])))
        del self.makers[x]
        self._account(*tensors)

    def _layer_norm(self, node: fx.Node) -> None:
        given: list[Any] = [*node.args, None, None]
        x, shape, affine = given[0], given[1], [n if isinstance(n, fx.Node) else None for n in given[2:4]]
        if len(shape) != 1 or x in self.normed or self._dim(x) != len(self.axes[x]) - 1:
            raise _Tied
        self._account(*affine)
        self.normed[node] = LayerNorm(*(None if n is None else str(n.target) for n in affine))

    def _scale(self, node: fx.Node) -> None:
        """A vector that multiplies what one maker gave."""
        given: list[Any] = sorted(node.args, key=lambda n: isinstance(n, fx.Node) and n.op == "get_attr")
        x, scale = given
        if not isinstance(scale, fx.Node) or scale.op != "get_attr":
            raise _Tied
        maker = self._only_maker(x)
        if maker.scale is not None or any(axis != ((),) for axis in self._others(scale)):
            raise _Tied
        self.makers[node] = replace(maker, scale=str(scale.target))
        del self.makers[x]
        self._account(scale)

    def _others(self, vector: fx.Node) -> Iterator[Axis]:
        """The axes of its other dimensions than that of the channels."""
        own = self._dim(vector)
        return (axis for d, axis in enumerate(self.axes[vector]) if d != own)

    def _only_maker(self, x: Any) -> Maker:
        """The maker whose output ``x`` is, if nothing else reads it."""
        if not isinstance(x, fx.Node) or x not in self.makers or len(x.users) != 1:
            raise _Tied
        return self.makers[x]

    def _account(self, *nodes: object) -> None:
        for node in nodes:
            if isinstance(node, fx.Node):
                if node.op != "get_attr":
                    raise _Tied
                self.used.add(str(node.target))


def _three(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node | None]:
    """Input, weight and bias of a linear layer's call."""
    values: dict[str, Any] = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | dict(node.kwargs)
    if not isinstance(values["weight"], fx.Node):
        raise _Tied
    return values["input"], values["weight"], values.get("bias")
