"""The one fine-tuning loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvp_deploy.checkpoint import Checkpoint
from mvp_deploy.errors import DeployError, ExitCode
from mvp_deploy.tasks.images import Images

Progress = Callable[[int, int, float], None]  # steps done, steps in all, the last loss


@dataclass(frozen=True)
class TrainConfig:
    """How to fine-tune. ``amp`` and ``channels_last`` matter on CUDA only."""

    steps: int = 200
    batch_size: int = 64
    lr: float = 0.02  # the highest in the schedule
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["cosine", "onecycle"] = "cosine"
    weight_decay: float = 1e-4  # on weights of two dimensions or more; norms and biases are spared
    label_smoothing: float = 0.0
    distill: float = 0.0  # share of the loss that the teacher's opinion has, 0 to 1
    temperature: float = 2.0  # of distillation
    clip: float | None = 1.0  # the gradient's greatest norm
    augment: bool = True
    flip: bool = False  # mirror images left to right when augmenting; wrong for digits and letters
    seed: int = 0
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"  # auto: bf16 where the GPU has it, else fp16
    channels_last: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise DeployError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if not self.lr > 0:
            raise DeployError(f"the learning rate is {self.lr}: it must be above 0")
        if not 0 <= self.distill <= 1 or not 0 <= self.label_smoothing < 1:
            raise DeployError("distill must lie in 0..1 and label_smoothing in 0..1, 1 excluded")


@dataclass(frozen=True)
class FitResult:
    """What a training did; ``seconds`` include those before a resumption."""

    steps: int
    seconds: float
    final_loss: float


def fit(
    model: nn.Module,
    images: Images,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
) -> FitResult:
    """Train the model in place on the images, on their device; it ends in eval mode.

    Args:
        teacher: the model to learn from as well, with weight ``config.distill``, by the divergence of the softened
            outputs (Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015).
        checkpoint: a file written every ``checkpoint_seconds`` and removed at the end. Where it exists, training goes
            on from it; on a CPU to the same weights as without the break.

    Raises:
        DeployError: the loss is no longer a number, or the checkpoint belongs to another training.
    """
    if bool(config.distill) != (teacher is not None):
        raise DeployError("distillation needs both a teacher and a weight (distill) above 0")
    device = images.device
    cuda = device.type == "cuda"
    layout = torch.channels_last if cuda and config.channels_last else torch.preserve_format
    model.to(device, memory_format=layout).train()
    if teacher is not None:
        teacher.to(device, memory_format=layout).eval()
    precision = _precision(config, device)
    optimizer = _optimizer(model, config)
    scaler = torch.amp.GradScaler("cuda", enabled=precision is torch.float16)
    torch.manual_seed(config.seed)  # dropout and the like
    start, elapsed, loss = 0, 0.0, math.nan
    saved = Checkpoint(checkpoint, model, optimizer, scaler, config, images.labels) if checkpoint else None
    if saved is not None and saved.exists():
        start, elapsed, loss = saved.load()

    began = last_saved = time.monotonic()
    every = 10 if cuda else 1  # reading the loss makes the host wait for the GPU
    for step, (x, y) in _numbered_batches(images, config, start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        x = x.contiguous(memory_format=layout)
        with _autocast(precision):
            value = _loss(model, teacher, x, y, config)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(value).backward()
        if config.clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        scaler.step(optimizer)
        scaler.update()
        done = step + 1
        if done % every == 0 or done == config.steps:
            loss = _finite(value.item(), done, config)
            if progress is not None:
                progress(done, config.steps, loss)
        now = time.monotonic()
        if saved is not None and done < config.steps and now - last_saved >= checkpoint_seconds:
            _finite(value.item(), done, config)
            saved.save(done, elapsed + now - began, loss)
            last_saved = now
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise _diverged(config.steps, config)
    model.eval()
    if saved is not None:
        saved.remove()
    return FitResult(config.steps, elapsed + time.monotonic() - began, loss)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, batch_size: int = 256) -> float:
    """The share of the images that the model classifies rightly (0..1), in eval mode and float32."""
    training = model.training
    model.to(images.device).eval()
    hits = sum((model(x).argmax(1) == y).sum() for x, y in images.batches(batch_size))
    model.train(training)
    return float(hits) / len(images)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, counted from 0.

    'cosine' rises linearly for the first twentieth, then falls to zero along a half cosine. 'onecycle' rises from 1/25
    for the first three tenths, then falls to zero, both along half cosines (Smith and Topin, "Super-Convergence", 2018).
    """
    share, low = (0.05, 0.0) if config.schedule == "cosine" else (0.3, 1 / 25)
    warm = max(1, round(share * config.steps))
    if step >= warm:
        return config.lr * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm))) / 2
    if config.schedule == "cosine":
        return config.lr * (step + 1) / (warm + 1)
    return config.lr * (low + (1 - low) * (1 - math.cos(math.pi * step / warm)) / 2)


def _numbered_batches(
    images: Images, config: TrainConfig, start: int
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Training batches from step ``start`` on. Each epoch's randomness is drawn from seed and epoch alone."""
    per_epoch = max(1, len(images) // config.batch_size)  # the remainder is left out: a batch of one breaks batch norm
    step = start
    while step < config.steps:
        epoch, skip = divmod(step, per_epoch)
        batches = images.batches(
            config.batch_size,
            shuffle=True,
            augment=config.augment,
            flip=config.flip,
            drop_last=True,
            skip=skip,
            generator=torch.Generator().manual_seed((config.seed << 32) + epoch),
        )
        for batch in batches:
            if step == config.steps:
                return
            yield step, batch
            step += 1


def _loss(model: nn.Module, teacher: nn.Module | None, x: Tensor, y: Tensor, config: TrainConfig) -> Tensor:
    logits = model(x).float()
    loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
    if teacher is None:
        return loss
    with torch.no_grad():
        opinion = teacher(x).float()
    heat = config.temperature
    divergence = F.kl_div(
        F.log_softmax(logits / heat, 1), F.log_softmax(opinion / heat, 1), reduction="batchmean", log_target=True
    )
    return (1 - config.distill) * loss + config.distill * heat**2 * divergence


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)


def _precision(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    if device.type != "cuda" or config.amp == "off":
        return None
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if config.amp == "bf16" and not has_bf16:
        raise DeployError("this GPU has no bf16: use fp16, auto or off for amp", ExitCode.ENVIRONMENT)
    return torch.float16 if config.amp == "fp16" or not has_bf16 else torch.bfloat16


def _autocast(precision: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if precision is None else torch.autocast("cuda", precision)


def _finite(loss: float, step: int, config: TrainConfig) -> float:
    if not math.isfinite(loss):
        raise _diverged(step, config)
    return loss


def _diverged(step: int, config: TrainConfig) -> DeployError:
    return DeployError(
        f"training diverged: the loss was no longer a number at step {step} of {config.steps}; lower the learning rate "
        f"(it was {config.lr:g}, try {config.lr / 10:g}), clip gradients to a smaller norm, or turn mixed precision off"
    )
