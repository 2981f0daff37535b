"""What whole blocks are worth to a task, in nats, as `obs` has it for units: the rise in loss that each brings.

A block adds b to its stream x. Without it the loss rises to second order by

    1/2 sum_o F_o Var(b_o | x)

where F are the loss's squared gradients at the sum, channel by channel, and Var(b | x) is what least squares cannot
tell of b from the stream x at the same place: what it can, the layers that follow make up for (`reconstruction`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvp_deploy.base.errors import MvpError
from mvp_deploy.pruning.surgeon import PENALTY
from mvp_deploy.structure import KeepPlan, Structure, prune
from mvp_deploy.structure.analysis import record
from mvp_deploy.structure.axes import size_left
from mvp_deploy.structure.blocks import Additions, Block
from mvp_deploy.structure.calls import CallMode
from mvp_deploy.structure.listening import module_paths, open_functionals
from mvp_deploy.tasks import Images

Worth = Callable[[frozenset[str]], Mapping[str, float]]  # blocks that are gone -> the rise for each of the others
AT_ONCE, BATCHES = 16, 16  # images whose gradients are worked out at once, and how often


def worth(model: nn.Module, structure: Structure, images: Images, *, seed: int = 0) -> Worth | None:
    """Measure what each block is worth, again for each choice of blocks that are gone.

    Args:
        model: the unpruned model with its head; it is run with the branches of what is gone at zero.
        structure: of that model.
        images: labelled ones of the task, of which some are drawn.
        seed: of the draw.

    Returns:
        What measures; None where no block can be removed.
    """
    blocks = {block.name: block for block in _removable(structure, model)}
    if not blocks:
        return None
    sample = list(images.sample(AT_ONCE, BATCHES, seed))

    @cache
    def measure(gone: frozenset[str]) -> Mapping[str, float]:
        seen = {name: _Seen(_channels(structure, block)) for name, block in blocks.items() if name not in gone}

        def visit(block: Block, args: tuple[Any, ...]) -> tuple[Any, ...]:
            branch, stream = args[block.branch], args[1 - block.branch]
            if block.name in gone:
                return tuple(torch.zeros_like(branch) if arg is branch else arg for arg in args)
            if block.name in seen:
                seen[block.name].add(stream.detach(), branch)
            return args

        model.eval()
        for x, y in sample:
            x = x.detach().clone().requires_grad_()
            additions = Additions(structure, structure.blocks)
            watch = _Watch(additions, visit)
            with torch.enable_grad(), open_functionals(), watch, module_paths(model, additions.enter):
                loss = functional.cross_entropy(model(x.clone()).float(), y, reduction="sum")
            torch.autograd.grad(loss, x)
        images_seen = sum(len(y) for _, y in sample)
        return {name: each.rise(images_seen) for name, each in seen.items() if each.rows}

    return measure


class _Watch(CallMode):
    """Hands the arguments of each block's addition to `visit`, and goes on with what it returns."""

    def __init__(self, additions: Additions, visit: Callable[[Block, tuple[Any, ...]], tuple[Any, ...]]) -> None:
        super().__init__()
        self.additions, self.visit = additions, visit

    def call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        block = self.additions.at(name)
        return func(*(args if block is None else self.visit(block, args)), **kwargs)


@dataclass
class _Seen:
    """Second moments of a stream (with a constant 1) and a branch, and squared gradients; ``dim`` has the channels."""

    dim: int
    rows: int = 0
    inputs: Tensor | float = 0.0  # [channels + 1, channels + 1]
    cross: Tensor | float = 0.0  # [channels + 1, channels]
    squares: Tensor | float = 0.0  # [channels], of the branch
    sensitivity: Tensor | float = field(default=0.0)  # [channels], summed over images

    def add(self, stream: Tensor, branch: Tensor) -> None:
        x, b = self._rows(stream), self._rows(branch.detach())
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        self.rows += len(x)
        self.inputs, self.cross = self.inputs + (x.T @ x).double(), self.cross + (x.T @ b).double()
        self.squares = self.squares + b.square().sum(0).double()

        def note(gradient: Tensor) -> None:
            self.sensitivity = self.sensitivity + self._rows(gradient).square().sum(0).double()

        branch.register_hook(note)

    def rise(self, images: int) -> float:
        """In nats."""
        inputs, cross = torch.as_tensor(self.inputs), torch.as_tensor(self.cross)
        share = PENALTY + len(inputs) / self.rows
        penalty = share * inputs.diagonal().mean().clamp_min(1e-30) * torch.eye(len(inputs)).to(inputs)
        told = (cross * torch.linalg.solve(inputs + penalty, cross)).sum(0)
        left = (self.squares - told).clamp_min(0) / self.rows
        return float((self.sensitivity * left).sum()) / (2 * images)

    def _rows(self, x: Tensor) -> Tensor:
        return x.movedim(self.dim, -1).flatten(0, -2).float()


def _channels(structure: Structure, block: Block) -> int:
    """The dimension of a block's stream along which its channels lie: the one with units."""
    (axes,) = structure.calls[block.addition].outputs
    free = [dim for dim, axis in enumerate(axes) if size_left(axis, {}) is None]
    return free[0] if len(free) == 1 else 1 if len(axes) == 4 else len(axes) - 1


def _removable(structure: Structure, model: nn.Module) -> list[Block]:
    """The blocks that `prune` can take out: all if the model can be recorded, else some."""

    def goes(block: Block) -> bool:
        try:
            prune(structure, model, KeepPlan(KeepPlan.full(structure).masks, frozenset({block.name})), check=False)
        except MvpError:
            return False
        return True

    if not structure.blocks:
        return []
    try:
        record(model, structure.example, allow_inexact=structure.allow_inexact)
    except MvpError:
        return [block for block in structure.blocks if goes(block)]
    return list(structure.blocks)
