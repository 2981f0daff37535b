"""From a split to batches for the model: kept as bytes, normalised and augmented in batches on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvp_deploy.tasks.folder import read_image
from mvp_deploy.tasks.preprocessing import Preprocessing
from mvp_deploy.tasks.task import Split

MEMORY_LIMIT = 2 << 30  # bytes of prepared images kept in memory
CHUNK = 256  # images prepared at once
AHEAD = 4  # batches a stream prepares in advance
SHIFT = 1 / 8  # of the edge: how far augmentation moves an image at most


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in the model's input size, on their way to ``device``.

    ``pixels`` are uint8 [n, 3, H, W] in memory, or the split they are prepared from batch by batch.
    """

    pixels: Tensor | Split
    labels: Tensor  # int64 [n], on the device
    preprocessing: Preprocessing
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        flip: bool = False,
        drop_last: bool = False,
        skip: int = 0,
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of float32 images [b, 3, H, W], normalised, and int64 labels [b], on the device.

        Args:
            batch_size: images in a batch; the last one may be smaller, unless ``drop_last`` leaves it out (it is
                kept when it is the only one).
            shuffle: in an order drawn from ``generator``.
            augment: move each image by up to an eighth of its edge, repeating its border pixels.
            flip: with ``augment``, mirror half of the images left to right (wrong for digits and letters).
            skip: batches to pass over; those that follow are the same as without.
            generator: a CPU generator, the source of all randomness; torch's own by default.
        """
        n = len(self)
        order = torch.randperm(n, generator=generator) if shuffle else torch.arange(n)
        parts = list(order.split(batch_size))
        if drop_last and len(parts) > 1 and len(parts[-1]) < batch_size:
            parts.pop()
        seeds = torch.randint(2**62, (len(parts),), generator=generator).tolist() if augment else []
        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        for part, pixels, seed in zip(
            parts[skip:], self._pixels(parts[skip:]), seeds[skip:] or [None] * len(parts), strict=False
        ):
            if seed is not None:
                pixels = _augment(pixels, flip, torch.Generator().manual_seed(seed))
            yield (pixels.float() / 255 - mean) / std, self.labels[part.to(self.device)]

    def _pixels(self, parts: list[Tensor]) -> Iterator[Tensor]:
        """The uint8 images of each list of indices, on the device."""
        if isinstance(self.pixels, Tensor):
            for part in parts:
                yield self.pixels[part.to(self.device)]
            return
        for pixels in _stream(self.pixels, parts, self.preprocessing):
            yield pixels.to(self.device)


def prepare(
    split: Split,
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    *,
    memory_limit: int = MEMORY_LIMIT,
) -> Images:
    """Bring a split to the model's input size: in the device's memory up to ``memory_limit`` bytes (n * 3 * H * W),
    else prepared again for every batch while the model works.

    Raises:
        DeployError: an image cannot be decoded.
    """
    device = torch.device(device)
    labels = torch.from_numpy(split.labels).to(device)
    height, width = preprocessing.input_size[1:]
    if len(split) * 3 * height * width > memory_limit:
        return Images(split, labels, preprocessing, device)
    pixels = torch.empty((len(split), 3, height, width), dtype=torch.uint8)
    chunks = torch.arange(len(split)).split(CHUNK)
    for part, chunk in zip(chunks, _stream(split, list(chunks), preprocessing), strict=True):
        pixels[part[0] : part[-1] + 1] = chunk
    return Images(pixels.to(device), labels, preprocessing, device)


def _stream(split: Split, parts: list[Tensor], preprocessing: Preprocessing) -> Iterator[Tensor]:
    """The prepared images of each list of indices, made by threads a little ahead of whoever asks.

    Decoding and resizing do not hold Python's lock, so threads suffice.
    """
    if isinstance(split.images, np.ndarray):
        for part in parts:
            yield resize_batch(torch.from_numpy(split.images[part.numpy()]), preprocessing)
        return
    files = split.images
    with ThreadPoolExecutor() as threads:
        waiting = deque(parts)
        running: deque[list[object]] = deque()

        def start() -> None:
            if waiting:
                part = waiting.popleft().tolist()
                running.append([threads.submit(_read, files[i], preprocessing) for i in part])

        for _ in range(AHEAD):
            start()
        while running:
            images = [future.result() for future in running.popleft()]  # type: ignore[attr-defined]
            start()
            yield torch.stack(images)


def _read(path: Path, preprocessing: Preprocessing) -> Tensor:
    return torch.from_numpy(preprocessing.resize(read_image(path))).permute(2, 0, 1)


def resize_batch(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """`Preprocessing.resize` for many images of one size: uint8 [n, height, width, 3] to uint8 [n, 3, H, W].

    torch's antialiased resizing of bytes is Pillow's algorithm; single values may differ by one or two.
    """
    layout = preprocessing.layout(images.shape[1], images.shape[2])
    pixels = images.permute(0, 3, 1, 2)  # in memory still channels last, which is the fast way
    if layout.size != tuple(images.shape[1:3]):
        pixels = F.interpolate(pixels, layout.size, mode=preprocessing.interpolation, antialias=True)
    height, width = preprocessing.input_size[1:]
    canvas = torch.tensor(layout.fill, dtype=torch.uint8).view(1, 3, 1, 1).repeat(len(images), 1, height, width)
    canvas[:, :, layout.target[0], layout.target[1]] = pixels[:, :, layout.source[0], layout.source[1]]
    return canvas


def _augment(pixels: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Move every image at random by gathering its rows and columns; flipping reverses the columns' order."""
    n, _, height, width = pixels.shape
    rows, columns = (_moved(n, length, generator) for length in (height, width))
    if flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        columns[mirrored] = columns[mirrored].flip(1)
    rows, columns = rows.to(pixels.device), columns.to(pixels.device)
    pixels = pixels.gather(2, rows[:, None, :, None].expand(n, 3, height, width))
    return pixels.gather(3, columns[:, None, None, :].expand(n, 3, height, width))


def _moved(n: int, length: int, generator: torch.Generator) -> Tensor:
    """For each of n edges the pixels to take, int64 [n, length], shifted at random and clamped to the edge."""
    most = max(1, round(SHIFT * length))
    shift = torch.randint(-most, most + 1, (n, 1), generator=generator)
    return (torch.arange(length) + shift).clamp(0, length - 1)
