"""Residual branches, which can be removed whole: what they are added to remains.

A branch reads one tensor and nothing else but parameters, and its output is added to that same tensor: x + f(x). So
are CNN residual blocks, inverted residuals, and a transformer's attention and MLP. Without the branch x goes on alone,
which is what the model computes when the branch gives zero. Found from the calls of a forward and who reads whose
output, never from a model's name.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure.calls import Call
from mvp_deploy.structure.flow import INPUT, Flow, Source

if TYPE_CHECKING:
    from mvp_deploy.structure.plan import KeepPlan
    from mvp_deploy.structure.structure import Structure

ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(frozen=True)
class Block:
    """A residual branch.

    name: of the module that holds its weights. tensors: the parameters and buffers that nothing else uses. calls: the
    calls that go with it (places in `Structure.calls`). addition: the last of these. branch: which of the two
    arguments of the addition it gives, 0 or 1.
    """

    name: str
    tensors: frozenset[str]
    calls: frozenset[int]
    addition: int
    branch: int


def find(
    flow: Flow, calls: Sequence[Call], shapes: Mapping[str, tuple[int, ...]], aliases: Iterable[str]
) -> tuple[Block, ...]:
    """The residual branches of a forward, in the order in which they are added.

    Args:
        flow: who reads whose output.
        calls: the forward's.
        shapes: of every parameter and buffer.
        aliases: those of them that have several names: what uses one is not offered.
    """
    readers: dict[Source, set[int]] = defaultdict(set)
    for number, sources in enumerate(flow.reads):
        for source in sources:
            readers[source].add(number)
    shared = set(aliases)
    found: dict[str, Block] = {}
    for addition, call in enumerate(calls):
        sources = flow.reads[addition]
        if call.function not in ADDITIONS or call.numbers or addition in flow.keywords:
            continue
        if len(sources) != 2 or len(set(flow.shapes[addition])) > 1:
            continue
        for branch in (0, 1):
            calls_of = _branch(flow, readers, addition, sources[branch], sources[1 - branch])
            own = {name for name, users in readers.items() if isinstance(name, str) and users and users <= calls_of}
            weights = [name for name in shapes if name in own and len(shapes[name]) > 1]
            if not weights or own & shared:
                continue
            name = unique(_place(weights), found)
            tensors = frozenset(_with_unread(own, shapes, readers))
            found[name] = Block(name, tensors, calls_of | {addition}, addition, branch)
            break
    return tuple(found.values())


def _branch(
    flow: Flow, readers: Mapping[Source, set[int]], addition: int, last: Source, stream: Source
) -> frozenset[int]:
    """The calls that turn ``stream`` into ``last`` and serve nothing but the addition; none if that needs others."""
    gone: set[int] = set()
    if not isinstance(last, int) or stream is None or last == stream:
        return frozenset()
    to_see = [-last]
    while to_see:
        number = -heapq.heappop(to_see)  # the latest first: by then it is known of all that read it whether they go
        if number in gone or number == stream:
            continue
        if number in flow.result or not readers[number] <= gone | {addition}:
            if number in flow.varies:
                return frozenset()
            continue  # a constant that others read too
        gone.add(number)
        for source in flow.reads[number]:
            if isinstance(source, int):
                heapq.heappush(to_see, -source)
            elif source is not None and source.startswith(INPUT) and source != stream:
                return frozenset()
    written = {flow.writes[number] for number in gone} - {None}
    from_stream = any(stream in flow.reads[number] for number in gone)
    return frozenset(gone) if from_stream and written <= gone else frozenset()


def _place(weights: Sequence[str]) -> str:
    """The module that holds all these weights."""
    paths = [name.split(".")[:-1] for name in weights]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) or weights[0]


def unique(name: str, taken: Mapping[str, object]) -> str:
    """The name, with a number behind it if it is taken."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}#{number}", number + 1
    return candidate


def _with_unread(own: set[str], shapes: Iterable[str], readers: Mapping[Source, set[int]]) -> Iterator[str]:
    """Besides what the branch reads, what nothing reads of modules all of whose other tensors are the branch's."""
    modules = {name.rpartition(".")[0] for name in own}
    lent = {name.rpartition(".")[0] for name in shapes if readers.get(name) and name not in own}
    yield from own
    for name in shapes:
        if not readers.get(name) and name.rpartition(".")[0] in modules - lent:
            yield name


def removed(structure: Structure, plan: KeepPlan) -> list[Block]:
    """The blocks that ``plan`` removes, in order."""
    return [block for block in structure.blocks if block.name in plan.without]


def take_out(model: nn.Module, structure: Structure, blocks: Sequence[Block]) -> None:
    """Take the blocks out of an eager model, in place: what holds a block becomes what remains of it.

    Raises:
        StructureError: more remains than one submodule without weights: the forward itself would have to change.
    """
    gone = frozenset[int]().union(*(block.calls for block in blocks))
    for place in dict.fromkeys(structure.calls[block.addition].module for block in blocks):
        own = [n for n, call in enumerate(structure.calls) if _inside(call.module, place)]
        left = {structure.calls[n].module[len(place) + 1 :].partition(".")[0] for n in own if n not in gone}
        rest = [model.get_submodule(f"{place}.{name}") for name in left if name and place]
        if not place or len(left) > 1 or len(rest) < len(left) or any(module.state_dict() for module in rest):
            raise StructureError(
                f"A removed block is only a part of what the forward of {place or 'the model'} does, and that is code."
            )
        parent, _, name = place.rpartition(".")
        setattr(model.get_submodule(parent), name, rest[0] if rest else nn.Identity())
        for module in rest[0].modules() if rest else ():
            if "inplace" in vars(module):
                vars(module)["inplace"] = False  # what it is given now is the stream, which others read


def _inside(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


class Additions:
    """Recognises the additions of blocks in one forward: by their module, and how often it called that function before.

    `enter` hears of each module that the forward goes into or comes back to (`listening.module_paths`), `at` each call.
    """

    def __init__(self, structure: Structure, blocks: Iterable[Block]) -> None:
        self._ran = Counter[tuple[str, str]]()
        self._module = ""
        before = Counter[tuple[str, str]]()
        of = {block.addition: block for block in blocks}
        self._blocks: dict[tuple[str, str, int], Block] = {}
        for number, call in enumerate(structure.calls):
            if number in of:
                self._blocks[call.module, call.function, before[call.module, call.function]] = of[number]
            before[call.module, call.function] += 1

    def enter(self, module: str) -> None:
        self._module = module

    def at(self, function: str) -> Block | None:
        """The block whose addition this call is, if it is one."""
        place = self._module, function
        self._ran[place] += 1
        return self._blocks.get((*place, self._ran[place] - 1))
