"""Which device a command runs on, and what float32 means there. A missing device is an error, never a fall-back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mvp_deploy.base.errors import EnvironmentMissing, InputError

if TYPE_CHECKING:
    import torch


def resolve(name: str) -> torch.device:
    """The device called 'auto' (a GPU if torch sees one), 'cpu', 'cuda' or 'cuda:N'.

    Raises:
        MvpError: (INPUT) another name; (ENVIRONMENT) this machine does not have the device.
    """
    import torch

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not re.fullmatch(r"auto|cuda(:\d+)?", name):
        raise InputError(f"unknown device {name!r}: write auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        why = "sees no GPU" if torch.backends.cuda.is_built() else "is built without CUDA"
        raise EnvironmentMissing(
            f"{name} was asked for, but torch {torch.__version__} {why}: install a CUDA build of torch and "
            "the GPU's driver, or pass --device cpu",
        )
    index = int(name.partition(":")[2] or 0)
    count = torch.cuda.device_count()
    if index >= count:
        raise EnvironmentMissing(
            f"{name} was asked for, but there are {count} GPUs: pass --device cuda:0 to cuda:{count - 1}",
        )
    return torch.device("cuda", index)


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply float32 with all 23 bits of its mantissa, whatever the process asked torch for; also a decorator.

    NVIDIA's GPUs since Ampere round the inputs of convolutions to TF32's 10 bits by default, and those of matrix
    products on request. What is measured, compared or solved as float32 then differs from the CPU's in the third digit.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    backends = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    try:  # torch has two settings for matrix products, and refuses to multiply where they disagree
        products = torch.get_float32_matmul_precision()
    except RuntimeError:  # the process has only set the newer one, which this one then does not know
        products = None
    torch.set_float32_matmul_precision("highest")
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
