"""From a split to batches for the model: kept as bytes, normalised and augmented in batches on the device."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvp_deploy.tasks.folder import read_image
from mvp_deploy.tasks.preprocessing import Preprocessing
from mvp_deploy.tasks.task import Split

MEMORY_LIMIT = 2 << 30  # bytes of prepared images kept in memory
CHUNK = 64  # images prepared at once
CACHED = 1 << 18  # pixels of a batch whose activations stay in a CPU's caches
SHIFT = 1 / 8  # of the edge: how far augmentation moves an image at most


@dataclass(frozen=True, eq=False)
class Images:
    """Images in the model's input size, on their way to ``device``.

    ``pixels`` are uint8 [n, 3, H, W] in memory, or float32 [n, 3, H, W] that their owner has normalised already, or
    the split they are prepared from batch by batch. ``channels_last``: whether the model takes batches of that memory
    layout; a forward with ``view`` may not.
    """

    pixels: Tensor | Split
    labels: Tensor  # int64 [n], on the device; `UNLABELLED` where there is none
    preprocessing: Preprocessing
    device: torch.device
    channels_last: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, places: Tensor) -> Images:
        """The images at ``places`` (int64 on the CPU), in their order."""
        if isinstance(self.pixels, Tensor):
            pixels: Tensor | Split = self.pixels[places.to(self.device)]
        else:
            files, at = self.pixels.images, places.numpy()
            chosen = files[at] if isinstance(files, np.ndarray) else tuple(files[i] for i in at.tolist())
            pixels = Split(chosen, self.pixels.labels[at])
        return replace(self, pixels=pixels, labels=self.labels[places.to(self.device)])

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
            batch_size: images in a batch; the last one may be smaller, unless ``drop_last`` leaves it out
                (it is kept when it is the only one).
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
        seeds = torch.randint(2**62, (len(parts),), generator=generator).tolist()  # one for each batch
        mean = torch.tensor(self.preprocessing.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=self.device).view(3, 1, 1)
        parts, seeds = parts[skip:], seeds[skip:]
        for part, seed, pixels in zip(parts, seeds, self._pixels(parts), strict=True):
            if augment:
                pixels = _augment(pixels, flip, torch.Generator().manual_seed(seed))
            x = pixels if pixels.is_floating_point() else pixels.float().div_(255).sub_(mean).div_(std)
            yield x, self.labels[part.to(self.device)]

    def sample(self, batch_size: int, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """At most ``count`` of the `batches`, in an order drawn by ``seed``, as `laid_out` has them."""
        generator = torch.Generator().manual_seed(seed)
        for x, y in islice(self.batches(min(batch_size, len(self)), shuffle=True, generator=generator), count):
            yield self.laid_out(x), y

    def passes(
        self, *, shuffle: bool = False, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`batches` for forward passes alone, of a size and memory layout that their device is quick with.

        On a CPU activations should stay in its caches: lite2 at 128 pixels takes a sixth of the time in batches of 16
        and channels last that it takes in batches of 256 (benchmarks/pretrained/cost.py).
        """
        size = 256
        if self.device.type == "cpu":
            size = min(256, max(16, CACHED // self.preprocessing.input_size[1] ** 2))
        for x, y in self.batches(size, shuffle=shuffle, generator=generator):
            yield self.laid_out(x), y

    def laid_out(self, x: Tensor) -> Tensor:
        """The batch in the memory layout that is quickest for the model, of those that it takes.

        On a GPU a first pass channels last takes seconds, for cuDNN plans each convolution anew in every thread and for
        every width; later passes gain little (lite2 on an H200: 2 s and 4.2 ms, contiguous 0.05 s and 4.6 ms).
        """
        if self.channels_last and self.device.type == "cpu":
            return x.contiguous(memory_format=torch.channels_last)
        return x.contiguous()

    def _pixels(self, parts: list[Tensor]) -> Iterator[Tensor]:
        """The uint8 images of each list of indices, on the device."""
        if isinstance(self.pixels, Tensor):
            for part in parts:
                yield self.pixels[part.to(self.device)]
        else:
            for pixels in _stream(self.pixels, parts, self.preprocessing, pinned=self.device.type == "cuda"):
                yield pixels.to(self.device, non_blocking=True)  # from pinned memory, while the model works


def prepare(
    split: Split,
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    *,
    memory_limit: int = MEMORY_LIMIT,
) -> Images:
    """Bring a split to the model's input size.

    Up to ``memory_limit`` bytes (n * 3 * H * W) are kept in the device's memory; larger splits are prepared again for
    every batch, by threads, while the model runs.

    Raises:
        MvpError: an image cannot be decoded.
    """
    device = torch.device(device)
    labels = torch.from_numpy(split.labels).to(device)
    height, width = preprocessing.input_size[1:]
    if len(split) * 3 * height * width > memory_limit:
        return Images(split, labels, preprocessing, device)
    chunks = list(torch.arange(len(split)).split(CHUNK))
    pixels = torch.empty((len(split), 3, height, width), dtype=torch.uint8)
    for part, chunk in zip(chunks, _stream(split, chunks, preprocessing), strict=True):
        pixels[part] = chunk
    return Images(pixels.to(device), labels, preprocessing, device)


def resize_batch(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """`Preprocessing.resize` for many square images: uint8 [n, edge, edge, 3] to uint8 [n, 3, H, W], H = W.

    torch's antialiased resizing of bytes is Pillow's algorithm, but for rounding: single values differ by two
    at most. With other shapes Pillow 13 may resize the columns first, and clip other values on the way.
    """
    layout = preprocessing.layout(images.shape[1], images.shape[2])
    pixels = images.permute(0, 3, 1, 2)  # in memory still channels last, which is the fast way
    if layout.size != tuple(images.shape[1:3]):
        pixels = F.interpolate(pixels, layout.size, mode=preprocessing.interpolation, antialias=True)
    colour = torch.tensor(layout.fill, dtype=torch.uint8).view(1, 3, 1, 1)
    canvas = colour.repeat(len(images), 1, *preprocessing.input_size[1:])
    canvas[:, :, layout.target[0], layout.target[1]] = pixels[:, :, layout.source[0], layout.source[1]]
    return canvas


def _stream(
    split: Split, parts: list[Tensor], preprocessing: Preprocessing, *, pinned: bool = False
) -> Iterator[Tensor]:
    """The prepared images of each list of indices, made by threads a little ahead of whoever asks.

    pinned: in memory that a GPU reads by itself.

    Decoding and resizing do not hold Python's lock, so threads suffice.
    """
    ahead = min(os.cpu_count() or 1, 8)  # batches: enough to keep the threads busy, few enough for the memory
    running: deque[Future[Tensor]] = deque()
    threads = ThreadPoolExecutor(ahead)
    try:
        for part in parts:
            running.append(threads.submit(_made, split, part, preprocessing, pinned))
            if len(running) > ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _made(split: Split, part: Tensor, preprocessing: Preprocessing, pinned: bool) -> Tensor:
    pixels = _resized(split, part, preprocessing)
    return pixels.pin_memory() if pinned else pixels


def _resized(split: Split, part: Tensor, preprocessing: Preprocessing) -> Tensor:
    if isinstance(split.images, np.ndarray):
        arrays = split.images[part.numpy()]
        height, width = arrays.shape[1:3]
        if height == width and preprocessing.input_size[1] == preprocessing.input_size[2]:
            return resize_batch(torch.from_numpy(arrays), preprocessing)
        images = [preprocessing.resize(image) for image in arrays]
    else:
        images = [preprocessing.resize(read_image(split.images[i])) for i in part.tolist()]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2))


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
    """Which pixel to take for each place on n edges, int64 [n, length]: shifted, clamped to the edge."""
    most = max(1, round(SHIFT * length))
    shift = torch.randint(-most, most + 1, (n, 1), generator=generator)
    return (torch.arange(length) + shift).clamp(0, length - 1)
