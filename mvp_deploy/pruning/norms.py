"""Batch norms of a pretrained model on a new task: their statistics as they are, or recomputed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from mvp_deploy.pruning.head import recalibrate, separability
from mvp_deploy.structure.graph import TracedModel
from mvp_deploy.tasks import Images


def has_batch_norms(model: nn.Module) -> bool:
    """Whether any of its norms takes statistics over a batch while it trains."""
    if isinstance(model, TracedModel):
        return model.has_batch_norms
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.track_running_stats for norm in norms)


def recalibrate_if_better(model: nn.Module, classifier: Sequence[str], images: Images, *, seed: int = 0) -> bool:
    """Recompute the statistics, in place, if that lowers the leave-one-out loss of a head in closed form.

    Where no linear classifier is there to judge by, or no class has a second image when one is left out, they stay as
    they are. Returns whether they changed.
    """
    if not classifier or int(images.labels.unique(return_counts=True)[1].max()) < 2:
        return False
    fresh = copy.deepcopy(model)
    if not recalibrate(fresh, images, seed=seed):
        return False
    if not separability(fresh, classifier, images) > separability(model, classifier, images):
        return False
    model.load_state_dict(fresh.state_dict())
    return True
