"""Equal models are translated to ONNX once, for all tests and workers: torch takes seconds for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from mvp_deploy.exporters.files import atomic_write

if TYPE_CHECKING:
    import onnx
    import torch

    Translate = Callable[[torch.nn.Module, torch.Tensor], onnx.ModelProto]
KNOWN = ("torch.", "timm.", "mvp_deploy.")


def once(real: Translate, folder: Path) -> Translate:
    """What ``real`` gives, kept in ``folder`` by all that it depends on."""

    @wraps(real)
    def translate(model: torch.nn.Module, example: torch.Tensor) -> onnx.ModelProto:
        import onnx

        key = _key(model, example)
        if key is None:
            return real(model, example)
        file = folder / f"{key}.onnx"
        if not file.exists():
            with atomic_write(file) as part:
                onnx.save(real(model, example), part)
        return onnx.load(file)

    return translate


def _key(model: torch.nn.Module, example: torch.Tensor) -> str | None:
    """A checksum of weights, shapes, classes and settings; None for a test's own class, whose code may be any."""
    found = hashlib.sha256(repr(tuple(example.shape[1:])).encode())
    for name, module in model.named_modules():
        kind, settings = type(module), vars(module)
        if not kind.__module__.startswith(KNOWN) or "forward" in settings:
            return None
        own = {key: value for key, value in settings.items() if not key.startswith("_")}
        found.update(repr((name, kind.__module__, kind.__qualname__, own, getattr(module, "code", None))).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()
