"""Images as a person has them in Python: a DataLoader, a Dataset, or tensors, prepared by their own transforms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mvp_deploy.base.errors import InputError, StructureError
from mvp_deploy.tasks.images import Images
from mvp_deploy.tasks.preprocessing import Preprocessing


def collect(data: Any, device: torch.device | str = "cpu", *, limit: int | None = None) -> Images:
    """Keep images that are the model's input already, and their labels, in memory.

    Args:
        data: batches ``(images [b, 3, H, W], labels [b])`` such as a DataLoader gives; or single ``(image, label)``
            pairs such as a Dataset gives; or one such pair of tensors. Floating point, normalised as the model
            wants it. Without labels each image's is -1.
        device: where the images go.
        limit: how many images to take at most; None takes all.

    Raises:
        MvpError: nothing is in it, the images differ in shape, are not floating-point tensors, or are not finite.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for x, y in _batches(data):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 4:
            raise InputError(
                f"The data give {_what(x)}, not the model's input, float [batch, channels, height, width]: "
                "apply the model's transforms in the Dataset (ToTensor and Normalize, or timm's create_transform)."
            )
        if images and x.shape[1:] != images[0].shape[1:]:
            raise InputError(
                f"The data give images of {list(x.shape[1:])} and of {list(images[0].shape[1:])}: resize to one size."
            )
        if not bool(x.isfinite().all()):
            raise InputError(f"Batch {len(images)} of the data holds NaN or infinite pixels: mend the transforms.")
        if y.is_floating_point() and not torch.equal(y, y.round()):
            raise InputError("The data give labels that are not whole numbers: give each image the index of its class.")
        images.append(x.detach().to(device, torch.float32))
        labels.append(y.to(device, torch.int64).reshape(-1))
        if limit is not None and sum(map(len, images)) >= limit:
            break
    if not images:
        raise InputError("The data give no images: is the folder, Dataset or DataLoader empty, or used up?")
    pixels, classes = torch.cat(images)[:limit], torch.cat(labels)[:limit]
    if len(pixels) != len(classes):
        raise InputError(f"The data give {len(pixels)} images and {len(classes)} labels: one label an image.")
    return Images(pixels, classes, _as_they_are(pixels), torch.device(device), channels_last=False)


@torch.no_grad()
def check_classifier(model: nn.Module, images: Images) -> None:
    """Refuse a model that gives no logits for the images, or fewer than they have classes.

    Raises:
        MvpError: (STRUCTURE) its output is not a tensor [b, classes]; (INPUT) a label has no output.
    """
    x, _ = next(images.batches(2))
    largest = int(images.labels.max())
    try:
        out = model(x)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise StructureError(
            f"{type(model).__name__} fails on the data's images, of shape {list(x.shape)}: {error}"
        ) from error
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x):
        what = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise StructureError(
            f"{type(model).__name__} returns {what} for {len(x)} images, not logits of shape [{len(x)}, classes]: "
            "wrap it in a module that returns its logits alone."
        )
    if largest >= out.shape[1]:
        raise InputError(
            f"The data have labels up to {largest}, the model has {out.shape[1]} outputs: count the classes from 0 up, "
            "or give the model an output for each."
        )


@torch.no_grad()
def labelled(images: Images, model: nn.Module) -> Images:
    """The images as they are; those without labels get what the model says, which is on their device."""
    if not (images.labels < 0).any():
        return images
    return replace(images, labels=torch.cat([model(x).argmax(1) for x, _ in images.batches(64)]))


def _batches(data: Any) -> Iterator[tuple[Any, Tensor]]:
    if isinstance(data, Tensor):
        yield data, torch.full((len(data),), -1)
        return
    if _is_pair(data):
        yield data[0], torch.as_tensor(data[1])
        return
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise InputError(f"{_what(data)} gives no images: pass a DataLoader, a Dataset, tensors, a folder or a task.")
    for item in data:
        x, y = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        if isinstance(x, Tensor) and x.ndim == 3:
            x, y = x[None], None if y is None else torch.as_tensor(y).reshape(1)
        yield x, torch.full((len(x),), -1) if y is None else torch.as_tensor(y)


def _is_pair(data: Any) -> bool:
    """Whether it is all images and all labels, and not a list of single images or batches."""
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], Tensor)):
        return False
    x, y = data
    return x.ndim == 4 or (isinstance(y, Tensor) and y.ndim == 1 and x.ndim > 1 and len(x) == len(y))


def _as_they_are(pixels: Tensor) -> Preprocessing:
    """Of images whose preparation is their owner's: only their size is known."""
    height, width = pixels.shape[2:]
    return Preprocessing((3, height, width), "bilinear", 1.0, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _what(x: object) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
