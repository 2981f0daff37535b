"""The parts that `mvp.prune` is made of, for one's own loop."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mvp_deploy import structure
from mvp_deploy.api.arguments import check
from mvp_deploy.api.data import input_of, training_images
from mvp_deploy.backbones.backbone import preprocessing_of
from mvp_deploy.backbones.conventions import restate_sizes
from mvp_deploy.pruning import reconstruction
from mvp_deploy.pruning.reconstruction import Reconstruction
from mvp_deploy.structure import KeepPlan, Structure
from mvp_deploy.structure.fakes import copy_with


def analyze(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Structure:
    """What can be removed from a model.

    Args:
        model: any module; it is not changed.
        example: its input, such as float32 [batch, channels, height, width], or a tuple of its inputs, batch first;
            only the shapes count.

    Returns:
        The groups of units that stay or go together, with ``cost(plan)``, ``frozen`` (what cannot be
        removed, and why) and ``unknown`` (operators without a rule).

    Raises:
        StructureError: the model reads values in its forward, so that it cannot be traced; the module is named.

    Examples:
        >>> import mvp_deploy as mvp, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> [(group.name, group.size) for group in mvp.analyze(net, torch.zeros(1, 3, 8, 8)).groups]
        [('0', 8)]
    """
    return structure.analyze(model, example)


def cut(model: nn.Module, plan: KeepPlan, example: Structure | Tensor | tuple[Tensor, ...]) -> nn.Module:
    """The smaller model that a keep plan describes; exact: it computes what ``model`` does with the rest silenced.

    Args:
        model: the full-size module; it is not changed.
        plan: which units of each group stay.
        example: what `analyze` gave, or an input to analyse the model with.

    Returns:
        An ordinary module of the same class, or a recorded program where the class cannot take the new sizes.

    Raises:
        StructureError: the plan is for another model, or the model cannot run smaller.
        ParityError: the smaller model does not compute what the silenced one does: please report it.

    Examples:
        >>> import mvp_deploy as mvp, numpy, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> x = torch.zeros(1, 3, 8, 8)
        >>> mvp.cut(net, mvp.KeepPlan({"0": numpy.arange(8) < 5}), x)[0]
        Conv2d(3, 5, kernel_size=(3, 3), stride=(1, 1))
    """
    parts = example if isinstance(example, Structure) else analyze(model, example)
    small = structure.prune(parts, model, plan)
    restate_sizes(small, model, tuple(parts.example[0].shape[1:]))
    return small


def reconstruct(
    small: nn.Module,
    full: nn.Module,
    plan: KeepPlan,
    data: Any,
    example: Structure | Tensor | tuple[Tensor, ...] | None = None,
    *,
    images: int = 256,
    seed: int = 0,
) -> Reconstruction:
    """Re-solve the layers of a cut model that lost inputs, in place, so that they give what the full ones gave.

    Args:
        small: what `cut` made of ``full`` by ``plan``; it ends in eval mode.
        full: the full-size module; it is not changed.
        plan: which units of each group stayed.
        data: images in any of the forms that `prune` takes; labels are not read.
        example: what `analyze` gave, or an input; the data's first images if left out.
        images: how many to use; more are better, up to a point.
        seed: which images are left out to judge.

    Returns:
        Each layer's error on images left out, before and after, as a share of its outputs' spread.

    Raises:
        InputError: the data cannot be read.

    Examples:
        >>> import mvp_deploy as mvp, numpy, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3))
        >>> x = torch.randn(32, 3, 8, 8)
        >>> plan = mvp.KeepPlan({"0": numpy.arange(8) < 5})
        >>> small = mvp.cut(net, plan, x)
        >>> done = mvp.reconstruct(small, net, plan, x)
        >>> [layer.weight for layer in done.layers], done.layers[0].after < done.layers[0].before
        (['1.weight'], True)
    """
    check(images=images, seed=seed)
    train = training_images(data, preprocessing_of(full), next(full.parameters()).device, limit=images)
    first = input_of(train) if example is None else example
    parts = first if isinstance(first, Structure) else analyze(full, first)
    return reconstruction.reconstruct(copy_with(full, {}), parts, plan, small, train, most=images, seed=seed)
