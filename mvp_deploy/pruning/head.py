"""Starting and finishing a model well: a classifier solved in closed form, batch-norm statistics of the new task."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mvp_deploy.base.devices import full_float32
from mvp_deploy.pruning.spectrum import principal_directions
from mvp_deploy.structure.bind import bound
from mvp_deploy.structure.graph import TracedModel
from mvp_deploy.structure.listening import open_functionals
from mvp_deploy.tasks import Images
from mvp_deploy.training import TrainConfig

HEAD_IMAGES = 8192  # a head of 100 classes gained 2.6 points from 3,398 images beside 2,048 of them
FEW_TIMES = 5  # after more, a tuned head is better than one solved again (docs/voting.md)
PENALTIES = torch.logspace(-6, 1, 15, dtype=torch.float64)
"""Relative to the largest eigenvalue: from interpolation to almost nothing but the classes' means.

The least one passes float32's rounding of the features on 500 / sqrt(images)-fold at most, 1 / (2 sqrt(1e-6)): about
1e-5 of the logits of a head from few images, a tenth of what parity allows. So it may stay; leave-one-out loss decides.
"""
SCALES = torch.logspace(-1, 2, 13)
"""Of the regression's outputs, which estimate probabilities, as logits."""
_BatchNorm = nn.modules.batchnorm._BatchNorm


def classifier(model: nn.Module) -> tuple[str, ...]:
    """The names of the linear layers that an eager model ends in, by what timm's `get_classifier` gives.

    A head can be a linear layer or a 1 x 1 convolution, a module that ends in one (an MLP, a norm before it), or
    several such heads, whose outputs the model averages. Empty if it is none of these.
    """
    get = getattr(model, "get_classifier", None)
    heads = get() if callable(get) else ()
    names = {module: name for name, module in model.named_modules()}
    last = []
    for head in heads if isinstance(heads, (tuple, list, nn.ModuleList)) else (heads,):
        layers = [m for m in head.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
        if not layers or layers[-1] not in names:
            return ()
        last += [names[layer] for layer in layers if len(layer.weight) == len(layers[-1].weight)]
    return tuple(dict.fromkeys(last))


def solve_head(model: nn.Module, classifier: Sequence[str], images: Images) -> bool:
    """Set the classifier, in place, to ridge regression of the classes on its features, scaled to probabilities.

    Penalty and scale are those with the lowest leave-one-out cross-entropy, which ridge regression gives in closed
    form; computed in float64 on the CPU from at most `HEAD_IMAGES` images' features. Works on eager and traced
    models. Of several heads each is solved by itself.

    Returns:
        Whether the model now gives what was solved for. Where it does not, because ``classifier`` (its last linear
        layers' names) is empty or something else follows these layers, nothing is changed.
    """
    if not classifier:
        return False
    weights = [model.get_parameter(f"{name}.weight") for name in classifier]
    biases = [dict(model.named_parameters()).get(f"{name}.bias") for name in classifier]
    seen, labels = features(model, classifier, images, HEAD_IMAGES)
    if any(len(rows) != len(labels) for rows in seen):
        return False
    fits = [
        ridge_classifier(rows, labels, len(weight), intercept=bias is not None)
        for rows, weight, bias in zip(seen, weights, biases, strict=True)
    ]
    before = [None if t is None else t.detach().clone() for t in (*weights, *biases)]
    _set([*weights, *biases], [*(fit.weight for fit in fits), *(fit.bias for fit in fits)])
    if _ends_in(model, weights, biases, images):
        return True
    _set([*weights, *biases], before)
    return False


def separability(model: nn.Module, classifier: Sequence[str], images: Images) -> float:
    """How well the classifier's input separates the classes; minus infinity if ``classifier`` is empty.

    Minus the leave-one-out cross-entropy, in nats, of the ridge regression that `solve_head` uses.
    """
    if not classifier:
        return -math.inf
    seen, labels = features(model, classifier, images, 512)
    classes = int(images.labels.max()) + 1
    return -sum(ridge_classifier(rows, labels, classes).loo_loss for rows in seen) / len(seen)


@dataclass(frozen=True)
class RidgeFit:
    """A linear classifier: weight [classes, features] and bias [classes], float64.

    loo_loss, loo_accuracy: cross-entropy in nats and share of right answers for the images that it was solved on, each
    judged by the classifier that the others give.
    """

    weight: Tensor
    bias: Tensor
    loo_loss: float
    loo_accuracy: float


def ridge_classifier(features: Tensor, labels: Tensor, classes: int, *, intercept: bool = True) -> RidgeFit:
    """Ridge regression on one-hot labels; penalty and scale minimise the leave-one-out cross-entropy.

    Leave-one-out predictions need no refit: y_loo = y - residual / (1 - leverage) (PRESS; Allen, 1974).

    Args:
        features: float64 [n, features].
        labels: int64 [n].
        intercept: Whether the layer has a bias; without, `RidgeFit.bias` is zero.
    """
    y = functional.one_hot(labels, classes).double()
    x_mean, y_mean = (t.mean(0) if intercept else torch.zeros_like(t[0]) for t in (features, y))
    x_centred, y_centred = features - x_mean, y - y_mean
    eigenvalues, basis = principal_directions(x_centred)
    rotated = x_centred @ basis
    moments = rotated.T @ y_centred
    best, accuracy = (torch.tensor(torch.inf, dtype=torch.float64), 1.0, 1.0), 0.0
    for penalty in (eigenvalues.max().clamp_min(1e-12) * PENALTIES).tolist():
        inverse = 1 / (eigenvalues + penalty)
        residual = y_centred - rotated @ (inverse[:, None] * moments)
        leverage = rotated.square() @ inverse + intercept / len(features)
        y_loo = y - residual / (1 - leverage).clamp_min(1e-12)[:, None]
        for scale in SCALES.tolist():
            loss = functional.cross_entropy(scale * y_loo, labels)
            if loss < best[0]:
                best, accuracy = (loss, penalty, scale), float((y_loo.argmax(1) == labels).double().mean())
    loss, penalty, scale = best
    weight = (basis @ (moments / (eigenvalues + penalty)[:, None])).T
    return RidgeFit(scale * weight, scale * (y_mean - weight @ x_mean), float(loss), accuracy)


@full_float32()
def recalibrate(model: nn.Module, images: Images, *, batches: int = 16, batch_size: int = 64, seed: int = 0) -> bool:
    """Recompute running batch-norm statistics, in place, as plain averages over a few batches.

    Works on eager and traced models. Returns False if there are none.
    """
    running = {id(m.running_mean) for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    if not running and not isinstance(model, TracedModel):
        return False
    model.eval()
    with torch.no_grad(), open_functionals(), _Statistics(running) as statistics:
        for x, _ in images.sample(batch_size, batches, seed):
            if len(x) > 1:
                model(x)
    return bool(statistics.seen)


def finish(
    model: nn.Module,
    classifier: Sequence[str],
    images: Images,
    config: TrainConfig,
    *,
    statistics: bool = True,
    head: bool = True,
) -> None:
    """What follows fine-tuning by ``config``, in place.

    Running batch-norm statistics lag behind weights that moved in few steps, and so does the head if each image was
    seen at most `FEW_TIMES`.
    """
    if statistics:
        recalibrate(model, images, seed=config.seed)
    if head and config.steps * config.batch_size <= FEW_TIMES * len(images):
        solve_head(model, classifier, images)


def _set(parameters: Sequence[Tensor | None], values: Sequence[Tensor | None]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            if parameter is not None and value is not None:
                parameter.copy_(value.reshape(parameter.shape))


class _Statistics(TorchFunctionMode):
    """Lets batch norms take their batch's statistics and average them in their running ones.

    Only those whose running means are among the ids ``running``; all, where it is empty.
    """

    def __init__(self, running: set[int]) -> None:
        super().__init__()
        self.running, self.seen = running, Counter[int]()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") == "batch_norm" and len(args) > 6:
            mean, training = args[3], args[5]
            if mean is not None and not training and (not self.running or id(mean) in self.running):
                self.seen[id(mean)] += 1
                args = (*args[:5], True, 1 / self.seen[id(mean)], *args[7:])
        return function(*args, **(kwargs or {}))


class _Inputs(TorchFunctionMode):
    """Collects, on the CPU in float64, what each of ``weights`` is multiplied with: one row per image."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.seen: dict[int, list[Tensor]] = {id(weight): [] for weight in weights}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("linear", "conv1d", "conv2d"):
            (x, weight, *_), _ = bound(function, args, kwargs or {})
            if id(weight) in self.seen:
                self.seen[id(weight)].append(_rows(x.detach(), weight, name).double().cpu())
        return function(*args, **(kwargs or {}))


def _rows(x: Tensor, weight: Tensor, name: str) -> Tensor:
    """A layer's input as [images, features]: the mean over its places, or all that a kernel covers at once."""
    if name == "linear":
        return x.flatten(1, -2).mean(1) if x.ndim > 2 else x
    return x.flatten(1) if x.shape[1:] == weight.shape[1:] else x.flatten(2).mean(2)


@full_float32()
def features(model: nn.Module, classifier: Sequence[str], images: Images, limit: int) -> tuple[list[Tensor], Tensor]:
    """What the layers of the classifier are given, each float64 [n, features] on the CPU, and the labels int64 [n]."""
    weights = [model.get_parameter(f"{name}.weight") for name in classifier]
    labels: list[Tensor] = []
    model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), _Inputs(weights) as inputs:
        for x, y in images.passes(shuffle=True, generator=generator):
            model(x)
            labels.append(y.cpu())
            if sum(map(len, labels)) >= limit:
                break
    return [torch.cat(seen) if seen else torch.zeros(0, 1) for seen in inputs.seen.values()], torch.cat(labels)


def _ends_in(model: nn.Module, weights: Sequence[Tensor], biases: Sequence[Tensor | None], images: Images) -> bool:
    """Whether the model's outputs are those of these linear layers, or their mean."""
    x = next(iter(images.batches(8)))[0]
    with torch.no_grad(), _Inputs(weights) as inputs:
        outputs = model(x)
    logits = [
        rows[0] @ weight.detach().double().cpu().flatten(1).T + (0 if bias is None else bias.detach().double().cpu())
        for rows, weight, bias in zip(inputs.seen.values(), weights, biases, strict=True)
    ]
    mean = sum(logits) / len(logits)
    return outputs.shape == mean.shape and bool((outputs.double().cpu() - mean).abs().max() < 0.05 * mean.abs().max())
