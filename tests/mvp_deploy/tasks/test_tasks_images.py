from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvp_deploy.base.errors import MvpError
from mvp_deploy.tasks import Images, Preprocessing, Split, prepare

PREPROCESSING = Preprocessing((3, 16, 16), "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def arrays() -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 20, 20, 3), np.uint8)
    return Split(pixels, np.arange(150, dtype=np.int64))


@pytest.fixture
def files(arrays: Split, tmp_path: Path) -> Split:
    for k, pixels in enumerate(arrays.images):
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")  # type: ignore[arg-type]
    return Split(tuple(tmp_path / f"{k}.png" for k in range(150)), arrays.labels)


def collect(images: Images, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    options.setdefault("generator", torch.Generator().manual_seed(3))
    x, y = zip(*images.batches(32, **options), strict=True)  # type: ignore[arg-type]
    return torch.cat(x), torch.cat(y)


def test_images_reach_the_model_as_a_device_would_prepare_them(arrays: Split, files: Split) -> None:
    x, y = collect(prepare(files, PREPROCESSING))
    expected = np.stack([PREPROCESSING.apply(image) for image in arrays.images])  # type: ignore[arg-type]
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)
    assert y.tolist() == list(range(150))
    from_arrays, _ = collect(prepare(arrays, PREPROCESSING))
    assert (from_arrays - x).abs().max() <= 2 / 255 / 0.25 + 1e-6  # torch's resizing, two levels at most


@pytest.mark.parametrize("source", ["arrays", "files"])
def test_streaming_gives_what_memory_gives(source: str, request: pytest.FixtureRequest) -> None:
    split = request.getfixturevalue(source)
    in_memory = prepare(split, PREPROCESSING)
    streamed = prepare(split, PREPROCESSING, memory_limit=150 * 3 * 16 * 16 - 1)
    assert isinstance(in_memory.pixels, torch.Tensor)
    assert streamed.pixels is split
    for options in ({}, {"shuffle": True, "augment": True, "flip": True}):
        for a, b in zip(collect(in_memory, **options), collect(streamed, **options), strict=True):
            assert torch.equal(a, b)


def test_passes_are_laid_out_for_their_device(arrays: Split) -> None:
    """Channels last is quick on a CPU, and on a GPU a first pass of seconds; what a forward cannot take is left."""
    x = torch.zeros(2, 3, 16, 16)
    there = prepare(arrays, PREPROCESSING)
    gpu = replace(there, device=torch.device("cuda"))
    assert there.laid_out(x).is_contiguous(memory_format=torch.channels_last)
    assert gpu.laid_out(x.contiguous(memory_format=torch.channels_last)).is_contiguous()
    assert replace(there, channels_last=False).laid_out(x).is_contiguous()


def test_a_stream_left_early_ends(files: Split) -> None:
    batches = prepare(files, PREPROCESSING, memory_limit=0).batches(2)
    assert next(batches)[1].tolist() == [0, 1]
    batches.close()  # type: ignore[attr-defined]


def test_a_file_that_breaks_later_is_named(files: Split) -> None:
    path = files.images[5]
    path.write_text("gone")  # type: ignore[union-attr]
    with pytest.raises(MvpError, match=r"5\.png cannot be read"):
        prepare(files, PREPROCESSING)


def test_shuffling_shows_every_image_once(arrays: Split) -> None:
    images = prepare(arrays, PREPROCESSING)
    _, y = collect(images, shuffle=True)
    assert y.tolist() != list(range(150))
    assert sorted(y.tolist()) == list(range(150))
    _, fewer = collect(images, shuffle=True, drop_last=True)
    assert fewer.tolist() == y[:128].tolist()
    assert len(list(images.batches(200, drop_last=True))) == 1  # the only batch is kept


def test_skipping_batches_does_not_change_the_others(arrays: Split) -> None:
    images = prepare(arrays, PREPROCESSING)
    whole, _ = collect(images, shuffle=True, augment=True)
    rest, _ = collect(images, shuffle=True, augment=True, skip=2)
    assert torch.equal(rest, whole[64:])


def test_augmentation_moves_images_by_up_to_an_eighth() -> None:
    pixels = np.zeros((64, 16, 16, 3), np.uint8)
    pixels[:, 8, 8] = 255
    images = prepare(Split(pixels, np.zeros(64, np.int64)), replace(PREPROCESSING, mean=(0.0,) * 3))
    x, _ = collect(images, augment=True)
    places = (x[:, 0] > 0).nonzero()[:, 1:]
    assert len(places) == 64  # the dot is never lost
    assert places.min() == 6
    assert places.max() == 10
    assert len({tuple(place) for place in places.tolist()}) > 15


def test_flipping_is_off_unless_asked_for() -> None:
    pixels = np.zeros((64, 16, 16, 3), np.uint8)
    pixels[:, :, :4] = 255  # bright on the left
    images = prepare(Split(pixels, np.zeros(64, np.int64)), PREPROCESSING)
    left = [(x[:, :, :, 0] > 0).float().mean() for x, _ in images.batches(64, augment=True)]
    assert left == [1.0]
    generator = torch.Generator().manual_seed(0)
    ((x, _),) = images.batches(64, augment=True, flip=True, generator=generator)
    assert 16 <= int((x[:, 0, 0, 0] < 0).sum()) <= 48
