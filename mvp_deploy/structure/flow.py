"""Which call of a forward made each tensor, and which calls read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mvp_deploy.structure.calls import tensors_in

Source = int | str | None
"""What made a tensor: a call by its place in the forward; a parameter or buffer by name; an input as `INPUT` with a
number; None for a constant from elsewhere."""

INPUT = "input "


@dataclass
class Flow:
    """Filled while a model is traced; calls are numbered as `Structure.calls` lists them."""

    reads: list[tuple[Source, ...]] = field(default_factory=list)  # of each call, its positional tensors first
    shapes: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)  # of what it reads, likewise
    writes: list[Source] = field(default_factory=list)  # of each call, who made the memory that it writes into
    keywords: set[int] = field(default_factory=set)  # calls that are given tensors by keyword
    varies: set[Source] = field(default_factory=set)  # inputs, and calls whose outputs depend on them
    result: tuple[Source, ...] = ()  # what the forward returns
    _made: dict[int, tuple[Tensor, Source]] = field(default_factory=dict)  # tensors are held, so that ids stay theirs
    _memory: dict[int, Source] = field(default_factory=dict)  # by storage, who made it

    def begin(self, name: str, tensor: Tensor) -> None:
        """Note a tensor that was there before the forward."""
        self._bind(tensor, name)
        if name.startswith(INPUT):
            self.varies.add(name)

    def call(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Note the next call."""
        number, given = len(self.reads), list(tensors_in((args, kwargs)))
        self.reads.append(self.sources(given))
        if next(tensors_in(kwargs), None) is not None:
            self.keywords.add(number)
        if not self.varies.isdisjoint(self.reads[-1]):
            self.varies.add(number)
        self.shapes.append(tuple(tuple(t.shape) for t in given))
        changes = given and (name == "__setitem__" or name.startswith("__i") or (name[-1:] == "_" and name[:2] != "__"))
        self.writes.append(self._memory.get(_storage(given[0])) if changes else None)
        if name == "__setitem__":
            self._bind(given[0], number)
        for tensor in tensors_in(out) if isinstance(out, (Tensor, tuple, list)) else ():
            self._bind(tensor, number)

    def end(self, out: Any) -> None:
        self.result = self.sources(tensors_in(out))

    def sources(self, tensors: Iterable[Tensor]) -> tuple[Source, ...]:
        return tuple(self._made[id(t)][1] if id(t) in self._made else None for t in tensors)

    def _bind(self, tensor: Tensor, source: Source) -> None:
        self._made[id(tensor)] = tensor, source
        self._memory.setdefault(_storage(tensor), source)


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a sparse tensor has none
        return id(tensor)
