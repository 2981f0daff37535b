"""Hearing what a forward does while it runs: the modules it enters, and the functions they call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any
from unittest.mock import patch

import torch
from torch import nn


@contextmanager
def module_paths(model: nn.Module, enter: Callable[[str], None]) -> Iterator[None]:
    """While open, calls `enter(path)` whenever a forward of `model` goes into a submodule or comes back to it."""
    paths = {id(m): name for name, m in model.named_modules()}
    stack = [""]

    def before(module: nn.Module, _: Any) -> None:
        stack.append(paths.get(id(module), stack[-1]))
        enter(stack[-1])

    def after(module: nn.Module, _: Any, __: Any) -> None:
        stack.pop()
        enter(stack[-1])

    hooks = [
        torch.nn.modules.module.register_module_forward_pre_hook(before),
        torch.nn.modules.module.register_module_forward_hook(after),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


_FUNCTIONALS = ExitStack()
_FUNCTIONALS_LOCK = Lock()
_functionals_users = 0


@contextmanager
def open_functionals() -> Iterator[None]:
    """Let the Python functions of torch.nn.functional run as they are, so that the functions they call are seen.

    Threads may hold it open at the same time; the last one to leave closes it.
    """
    global _functionals_users
    with _FUNCTIONALS_LOCK:
        if _functionals_users == 0:
            for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
                _FUNCTIONALS.enter_context(patch.object(torch.nn.functional, name, lambda *_: False))
        _functionals_users += 1
    try:
        yield
    finally:
        with _FUNCTIONALS_LOCK:
            _functionals_users -= 1
            if _functionals_users == 0:
                _FUNCTIONALS.close()
