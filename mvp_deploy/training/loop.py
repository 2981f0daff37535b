"""The one fine-tuning loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvp_deploy.base.devices import full_float32
from mvp_deploy.base.errors import EnvironmentMissing, InputError, MvpError
from mvp_deploy.tasks.images import Images
from mvp_deploy.training.checkpoint import Best, Checkpoint
from mvp_deploy.training.config import TrainConfig

Progress = Callable[[int, int, float], None]  # steps done, steps in all, the last loss
Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of model, images and labels: the loss to lower
Judge = Callable[[nn.Module], float]  # how bad a model in eval mode is: of several, the one with the least is kept
JUDGED = 10  # times in a training, and once before it
PATIENCE = 3  # judgements without a better state, after which a training ends
PLANNED = 3000  # steps from which on, on a GPU, channels last gain what cuDNN's first plans of them take
FAIR = 0.6  # of the steps; before, the learning rate is so high that a good training may look worse than its start


class Diverged(MvpError):
    """The loss or the weights became infinite or NaN."""


@dataclass(frozen=True)
class FitResult:
    """What a training did; ``seconds`` include those before a resumption. kept: the step whose state was kept."""

    steps: int
    seconds: float
    final_loss: float
    kept: int


def fit(
    model: nn.Module,
    images: Images,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    objective: Objective | None = None,
    judge: Judge | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
) -> FitResult:
    """Train the model in place on the images, on their device; it ends in eval mode.

    Args:
        teacher: a model whose opinion counts for ``config.distill`` of the loss, by the divergence of the
            softened outputs (Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015).
        objective: the loss, where it is not the cross-entropy of the labels.
        judge: where there is one, the best of the states that it is shown is kept, the first one included, and
            training ends early once it no longer finds better ones.
        checkpoint: a file written every ``checkpoint_seconds`` and removed at the end. Where it exists,
            training goes on from it; on a CPU to the same weights as without the break.

    Raises:
        Diverged: the loss became infinite or NaN.
        MvpError: the checkpoint belongs to another training.
    """
    if config.distill and teacher is None:
        raise InputError(f"distill is {config.distill}, but there is no teacher: give one, or set it to 0")
    device = images.device
    cuda = device.type == "cuda"
    planned = not cuda or config.steps >= PLANNED
    memory_format = torch.channels_last if config.channels_last and planned else torch.contiguous_format
    networks = (model,) if teacher is None else (model, teacher)
    for network in networks:
        network.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    _train_mode(model, config)
    precision = _precision(config, device)
    optimizer = _optimizer(model, config)
    scaler = torch.amp.GradScaler("cuda", enabled=precision is torch.float16)
    saved = Checkpoint(checkpoint, model, optimizer, scaler, config, images.labels) if checkpoint else None
    every = 10 if cuda else 1  # reading the loss makes the host wait for the GPU
    exact = full_float32() if precision is None else nullcontext()
    with torch.random.fork_rng(devices=[device] if cuda else []), exact:
        torch.manual_seed(config.seed)  # for dropout and the like
        start, before, loss, best = saved.load() if saved and saved.path.exists() else (0, 0.0, math.nan, Best())
        began = last_saved = time.monotonic()
        if judge is not None and start == 0:
            best = _judged(model, judge, 0, best, config)
        done = start
        for step, (x, y) in _numbered_batches(images, config, start):
            with _autocast(precision):
                x = x.contiguous(memory_format=memory_format)
                value = objective(model, x, y) if objective else _loss(model, teacher, x, y, config)
            _update(model, optimizer, scaler, value, learning_rate(step, config), config.clip)
            done, now = step + 1, time.monotonic()
            if judge is not None and (done % -(-config.steps // JUDGED) == 0 or done == config.steps):
                best = _judged(model, judge, done, best, config)
            last = done == config.steps or (best.disappointed >= PATIENCE and done >= FAIR * config.steps)
            save = saved is not None and not last and now - last_saved >= checkpoint_seconds
            if save or done % every == 0 or last:
                loss = value.item()
                if not math.isfinite(loss):
                    raise _diverged(done, config)
                if progress is not None:
                    progress(done, config.steps, loss)
            if saved is not None and save:
                saved.save(done, before + now - began, loss, best)
                last_saved = now
            if last:
                break
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise _diverged(done, config)
    if best.state:
        model.load_state_dict(best.state)
    for network in networks:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.eval()
    if saved is not None:
        saved.path.unlink(missing_ok=True)
    return FitResult(done, before + time.monotonic() - began, loss, best.step if best.state else done)


def _judged(model: nn.Module, judge: Judge, step: int, best: Best, config: TrainConfig) -> Best:
    model.eval()
    value = judge(model)
    _train_mode(model, config)
    if best.state and not value < best.value:
        return replace(best, disappointed=best.disappointed + 1)
    return Best(value, step, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()})


def _train_mode(model: nn.Module, config: TrainConfig) -> None:
    model.train()
    if config.norms == "frozen":
        freeze_norms(model)


def freeze_norms(model: nn.Module) -> None:
    """Let batch norms of a model in training mode use and keep their running statistics; weights go on learning."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    freeze = getattr(model, "freeze_norms", None)  # of a recorded program, whose norms are not modules
    if callable(freeze):
        freeze()


@full_float32()
@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """The share of the images that the model classifies rightly (0..1), in eval mode and float32."""
    training = model.training
    model.to(images.device).eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in images.passes())
    model.train(training)
    return hits / len(images)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, counted from 0.

    'cosine' rises linearly for the first twentieth, then falls to zero along a half cosine. 'onecycle' rises
    from 1/25 for the first three tenths, then falls to zero, both along half cosines (Smith and Topin,
    "Super-Convergence", 2018).
    """
    warm = max(1, round((0.05 if config.schedule == "cosine" else 0.3) * config.steps))
    if step >= warm:
        return config.lr * _half_cosine((step - warm) / (config.steps - warm))
    if config.schedule == "cosine":
        return config.lr * (step + 1) / (warm + 1)
    return config.lr * (1 - (1 - 1 / 25) * _half_cosine(step / warm))


def _half_cosine(t: float) -> float:
    """Falls from 1 at t = 0 to 0 at t = 1."""
    return (1 + math.cos(math.pi * t)) / 2


def _numbered_batches(images: Images, config: TrainConfig, start: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Training batches from step ``start`` on. Each epoch's randomness is drawn from seed and epoch alone.

    An epoch leaves out the images that do not fill a batch: in a batch of one, batch norms have no variance.
    """
    per_epoch = max(1, len(images) // config.batch_size)
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
    if teacher is None or not config.distill:
        return loss
    with torch.no_grad():
        opinion = teacher.eval()(x).float()
    heat = config.temperature
    own, taught = F.log_softmax(logits / heat, 1), F.log_softmax(opinion / heat, 1)
    divergence = F.kl_div(own, taught, reduction="batchmean", log_target=True)
    return (1 - config.distill) * loss + config.distill * heat**2 * divergence


def _update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    loss: Tensor,
    lr: float,
    clip: float | None,
) -> None:
    """One step of the optimizer; the scaler, enabled for fp16 only, passes over gradients that overflowed."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    if clip is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    scaler.step(optimizer)
    scaler.update()


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
    """What to compute in besides float32: bf16 or fp16 on CUDA, nothing on a CPU."""
    if device.type != "cuda" or config.amp == "off":
        return None
    with torch.cuda.device(device):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if config.amp == "bf16" and not has_bf16:
        raise EnvironmentMissing("this GPU has no bf16: choose auto, fp16 or off for amp")
    return torch.float16 if config.amp == "fp16" or not has_bf16 else torch.bfloat16


def _autocast(precision: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if precision is None else torch.autocast("cuda", precision)


def _diverged(step: int, config: TrainConfig) -> Diverged:
    return Diverged(
        f"training diverged: the loss was not a number at step {step} of {config.steps}. Lower the learning "
        f"rate (it was {config.lr:g}; try {config.lr / 10:g}), clip gradients harder, or turn amp off"
    )
