"""Taking out of caches what runs of our own have left there.

A forward may keep tensors outside its model: positions in a dictionary of its Python module, masks behind
`functools.lru_cache`. A run on fakes would leave fakes there, a comparison in float64 numbers of that format, and a
run of the user's would compute with them.
"""

from __future__ import annotations

import functools
import gc
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import ref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_MADE: ContextVar[list[ref[Tensor]] | None] = ContextVar("_MADE", default=None)
_DEPTH = 3  # tuples and lists between a fake and the cache it lies in


def note(made: Any) -> None:
    """Note tensors as they are made."""
    noted = _MADE.get()
    if noted is not None:
        noted.extend(ref(t) for t in (made if isinstance(made, (tuple, list)) else (made,)) if isinstance(t, Tensor))


class Noted(TorchDispatchMode):
    """Notes what operators make."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        note(out)
        return out


@contextmanager
def caches_restored() -> Iterator[None]:
    """Afterwards no cache holds a tensor that was noted meanwhile; also a decorator."""
    if _MADE.get() is not None:
        yield
        return
    noted: list[ref[Tensor]] = []
    token = _MADE.set(noted)
    try:
        yield
    except Exception as error:
        _let_go(error)
        raise
    finally:
        _MADE.reset(token)
        if any(made() is not None for made in noted):
            gc.collect()
            _take_out([left for made in noted if (left := made()) is not None], _DEPTH)


def _let_go(error: BaseException | None) -> None:
    """Let the frames that an error came through hold no tensors."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _take_out(values: list[Any], depth: int) -> None:
    between: list[Any] = []  # what holds them, and is itself held
    for holder in gc.get_referrers(*values) if values else ():
        if isinstance(holder, functools._lru_cache_wrapper):
            holder.cache_clear()
        elif type(holder) in (tuple, list) and holder is not values:
            between.append(holder)
        elif type(holder) is dict:
            owner = next((o for o in gc.get_referrers(holder) if _is_namespace(holder, o)), None)
            for key in _keys(holder, values):
                if owner is None:
                    del holder[key]
                else:
                    setattr(owner, key, None)  # as a forward that fills it once expects it
        else:
            for key in _keys(getattr(holder, "__dict__", {}), values):
                setattr(holder, key, None)
    if depth:
        _take_out(between, depth - 1)


def _keys(table: Mapping[Any, Any], values: list[Any]) -> list[Any]:
    return [key for key, held in table.items() if any(held is value for value in values)]


def _is_namespace(table: dict[str, Any], owner: Any) -> bool:
    """Whether the table holds the attributes of a class, or of an object."""
    if isinstance(owner, type):
        return owner.__dict__.keys() == table.keys()
    return getattr(owner, "__dict__", None) is table
