"""Starting and finishing a model well: a classifier solved in closed form, batch-norm statistics of the new task."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mvp_deploy.tasks import Images
from mvp_deploy.training import TrainConfig

FEW_TIMES = 5  # after more, a tuned head is better than one solved anew (docs/voting.md)
_BatchNorm = nn.modules.batchnorm._BatchNorm


def classifier(model: nn.Module) -> str | None:
    """The name of an eager model's last linear layer as timm gives it; None where it has another classifier."""
    get = getattr(model, "get_classifier", None)
    last = get() if callable(get) else None
    return next((name for name, module in model.named_modules() if module is last and type(last) is nn.Linear), None)


def solve_head(model: nn.Module, classifier: str | None, images: Images, *, limit: int = 2048) -> bool:
    """Set the classifier, in place, to ridge regression of the classes on its features, scaled to probabilities.

    Penalty and scale are those with the lowest leave-one-out cross-entropy, which ridge regression gives in closed
    form; computed in float64 on the CPU from at most ``limit`` images' features. Works on eager and traced models
    alike. Returns False, changing nothing, where ``classifier`` (the linear layer's name) is None.
    """
    if classifier is None:
        return False
    weight = model.get_parameter(f"{classifier}.weight")
    bias = dict(model.named_parameters()).get(f"{classifier}.bias")
    solved, offset, _ = _ridge(*_features(model, weight, images, limit), len(weight))
    with torch.no_grad():
        weight.copy_(solved)
        if bias is not None:
            bias.copy_(offset)
    return True


def separability(model: nn.Module, classifier: str | None, images: Images, *, limit: int = 512) -> float:
    """How well the classes can be told from the classifier's input: minus the leave-one-out cross-entropy, in nats,
    of the ridge regression that `solve_head` takes. Minus infinity where ``classifier`` is None."""
    if classifier is None:
        return -math.inf
    weight = model.get_parameter(f"{classifier}.weight")
    features, labels = _features(model, weight, images, limit)
    return -_ridge(features, labels, int(images.labels.max()) + 1)[2]


def _ridge(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, float]:
    """Weights [classes, features] and bias [classes], float64, and their leave-one-out cross-entropy."""
    target = functional.one_hot(labels, classes).double()
    centre, share = features.mean(0), target.mean(0)
    centred, wanted = features - centre, target - share
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values = values.clamp_min(0)
    rotated = centred @ vectors
    covariance = rotated.T @ wanted
    best = (torch.tensor(torch.inf, dtype=torch.float64), 1.0, 1.0)
    for penalty in (values.max().clamp_min(1e-12) * torch.logspace(-6, 1, 15, dtype=torch.float64)).tolist():
        inverse = 1 / (values + penalty)
        residual = wanted - rotated @ (inverse[:, None] * covariance)
        leverage = rotated.square() @ inverse + 1 / len(features)
        left_out = target - residual / (1 - leverage).clamp_min(1e-6)[:, None]
        for scale in torch.logspace(-1, 2, 13).tolist():
            loss = functional.cross_entropy(scale * left_out, labels)
            if loss < best[0]:
                best = (loss, penalty, scale)
    loss, penalty, scale = best
    weight = (vectors @ (covariance / (values + penalty)[:, None])).T
    return scale * weight, scale * (share - weight @ centre), float(loss)


def recalibrate(model: nn.Module, images: Images, *, batches: int = 16, batch_size: int = 64, seed: int = 0) -> bool:
    """Recompute running batch-norm statistics as plain averages over a few batches; False where there are none."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return False
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x, _ in islice(images.batches(min(batch_size, len(images)), shuffle=True, generator=generator), batches):
            if len(x) > 1:
                model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    return True


def finish(
    model: nn.Module,
    classifier: str | None,
    images: Images,
    config: TrainConfig,
    *,
    statistics: bool = True,
    head: bool = True,
) -> None:
    """What follows fine-tuning by ``config``, in place: running batch-norm statistics lag behind weights that moved in
    few steps, and so does the head where the images were seen `FEW_TIMES` at most."""
    if statistics:
        recalibrate(model, images, seed=config.seed)
    if head and config.steps * config.batch_size <= FEW_TIMES * len(images):
        solve_head(model, classifier, images)


class _Inputs(TorchFunctionMode):
    """Collects, on the CPU in float64, what ``weight`` is multiplied with by linear layers."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.seen: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.linear and args[1] is self.weight:
            self.seen.append(args[0].detach().double().cpu())
        return function(*args, **(kwargs or {}))


def _features(model: nn.Module, weight: Tensor, images: Images, limit: int) -> tuple[Tensor, Tensor]:
    """What the classifier is given, float64 [n, features] on the CPU, and the labels int64 [n]."""
    labels: list[Tensor] = []
    model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), _Inputs(weight) as inputs:
        for x, y in images.batches(256, shuffle=True, generator=generator):
            model(x)
            labels.append(y.cpu())
            if sum(map(len, labels)) >= limit:
                break
    return torch.cat(inputs.seen), torch.cat(labels)
