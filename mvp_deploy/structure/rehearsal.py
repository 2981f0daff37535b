"""Running a smaller model without data before anything is cut: what cannot work is refused by the module's name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import BaseTorchFunctionMode, TorchFunctionMode

from mvp_deploy.base.errors import StructureError
from mvp_deploy.structure.axes import Atom, size_left
from mvp_deploy.structure.calls import OtherCalls, SameCalls
from mvp_deploy.structure.fakes import QuickOperators, fake_copy, fake_inputs, quiet
from mvp_deploy.structure.listening import module_paths, open_functionals
from mvp_deploy.structure.structure import Structure


def rehearse(
    structure: Structure,
    model: nn.Module,
    masks: Mapping[str, Any],
    resize: Any,
    counts: Mapping[Atom, int] | None,
    without: frozenset[str] = frozenset(),
) -> None:
    """Run `model` on fake tensors with its parameters cut by `masks` and its attributes set by `resize(copy)`.

    Given `counts`, the units that stay per atom, its calls are compared with those of the full model, but for those of
    the blocks that it is `without`.

    Raises:
        MvpError: it fails, or does something else than the full model.
    """

    def shape(name: str, tensor: Tensor) -> list[int]:
        own = masks.get(name, [None] * tensor.ndim)
        return [n if mask is None else int(mask.sum()) for n, mask in zip(tensor.shape, own, strict=True)]

    gone = structure.calls_gone(without)
    calls = [call for number, call in enumerate(structure.calls) if number not in gone]
    module = ""

    def enter(path: str) -> None:
        nonlocal module
        module = path

    # tensors on the meta device are the quicker fakes, but few models mind where a tensor lies and need the others
    for mode in (None, FakeTensorMode(allow_non_fake_inputs=True)):
        fake = fake_copy(model, mode, shape)
        resize(fake)
        inputs = fake_inputs(structure.example, fake, mode)
        # under a function mode torch.nn.TransformerEncoderLayer takes no fast path, which checks no shapes
        same: TorchFunctionMode = BaseTorchFunctionMode()
        if counts is not None:
            same = SameCalls(calls, partial(size_left, counts=counts))
        try:
            with (
                torch.no_grad(),
                quiet(),
                mode or nullcontext(),
                QuickOperators(),
                open_functionals(),
                same,
                module_paths(fake, enter),
            ):
                fake(*inputs)
            if isinstance(same, SameCalls):
                same.finish()
            return
        except OtherCalls as error:
            if mode is not None:
                raise StructureError(f"The smaller model would compute something else: it {error}.") from error
        except Exception as error:
            if mode is not None:
                raise StructureError(
                    f"The smaller model cannot run: {module or 'the model'} "
                    f"({type(fake.get_submodule(module)).__name__}) fails at its new size: {error}"
                ) from error
