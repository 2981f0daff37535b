"""Whether a trained classifier's outputs stand in the order of the data's classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mvp_deploy.tasks import Images

SIGMAS = 3  # standard errors that another order must be better by
LEAST = 0.5  # share of the images that it must get right


@torch.no_grad()
def other_order(model: nn.Module, images: Images) -> tuple[int, ...] | None:
    """For each class of the data, the output that answers for it, where that is clearly not the data's own order.

    Training scripts number classes in different ways (timm's puts ``10`` after ``2``, others before it), and nothing
    in a checkpoint says which. The confusion matrix does: every class has one output of its own that fires for it.
    Returns None if the order is right, or the model too bad to tell.
    """
    model.eval()
    counts: Tensor | None = None
    for x, y in images.batches(64):
        logits = model(x)
        if counts is None:
            counts = torch.zeros(logits.shape[1], logits.shape[1], dtype=torch.int64)
        counts.index_put_((y.cpu(), logits.argmax(1).cpu()), torch.tensor(1), accumulate=True)
    if counts is None:
        return None
    right, (most, order) = int(counts.trace()), counts.max(1)
    if len(order.unique()) < len(order) or most.sum() < LEAST * len(images):
        return None
    return tuple(order.tolist()) if most.sum() - right > SIGMAS * math.sqrt(len(images)) else None
