"""Running models side by side, one linear layer after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvp_deploy.pruning.linear import LinearCalls, LinearLayer


class Stop(NamedTuple):
    """Where a walk has stopped: before ``layer`` runs on ``input`` and adds ``bias``."""

    layer: LinearLayer
    input: Tensor
    bias: Tensor | None


class _Cancelled(BaseException):
    """Ends a walk that nobody follows to its end."""


@contextmanager
def walk(model: nn.Module, layers: Mapping[str, LinearLayer], x: Tensor) -> Iterator[Iterator[Stop]]:
    """A forward pass of ``model`` on ``x`` that stops before every run of a linear layer until the next is asked for.

    It runs in a thread of its own, and only while it is waited for. What changes in the model while it stands still
    counts from there on: so layers can be re-solved as they come, and what is kept of a batch is what the pass itself
    still needs, not every layer's activations.
    """
    stops: SimpleQueue[Stop | BaseException | None] = SimpleQueue()
    turns: SimpleQueue[bool] = SimpleQueue()

    def stop(layer: LinearLayer, input: Tensor, bias: Tensor | None) -> None:
        stops.put(Stop(layer, input, bias))
        if not turns.get():
            raise _Cancelled

    def run() -> None:
        if not turns.get():
            return
        try:
            with torch.no_grad(), LinearCalls(model, layers, before=stop):
                model(x)
            stops.put(None)
        except _Cancelled:
            pass
        except BaseException as error:
            stops.put(error)

    def follow() -> Iterator[Stop]:
        while True:
            turns.put(True)
            found = stops.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                return
            yield found
            del found  # else it would keep an input alive that the pass no longer needs

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield follow()
    finally:
        turns.put(False)
        thread.join()
