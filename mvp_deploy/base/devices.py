"""Which device a command runs on. A device asked for and not there is an error, never a fall-back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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
