from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mvp_deploy.backbones import timm
from mvp_deploy.base.errors import MvpError
from mvp_deploy.tasks import Preprocessing
from mvp_deploy.tasks.images import resize_batch

SQUARE = Preprocessing((3, 24, 24), "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@settings(max_examples=150, deadline=None)
@given(
    image=st.tuples(st.integers(5, 70), st.integers(5, 70)),
    box=st.tuples(st.integers(8, 40), st.integers(8, 40)) | st.integers(8, 40).map(lambda n: (n, n)),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    crop_pct=st.sampled_from([0.5, 0.8, 0.875, 0.95, 1.0]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    seed=st.integers(0, 1000),
)
def test_images_are_prepared_as_timm_prepares_them(
    image: tuple[int, int],
    box: tuple[int, int],
    interpolation: str,
    crop_pct: float,
    crop_mode: str,
    seed: int,
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*image, 3), np.uint8)
    ours = replace(SQUARE, input_size=(3, *box), interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode)
    theirs = timm().data.create_transform(
        input_size=ours.input_size,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=ours.mean,
        std=ours.std,
    )
    expected = theirs(Image.fromarray(pixels)).numpy()
    np.testing.assert_allclose(ours.apply(pixels), expected, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    edge=st.integers(5, 70),
    box=st.integers(8, 80),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    crop_pct=st.sampled_from([0.5, 0.875, 0.95, 1.0]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    seed=st.integers(0, 1000),
)
def test_batches_of_square_images_are_prepared_like_single_ones(
    edge: int, box: int, interpolation: str, crop_pct: float, crop_mode: str, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, edge, edge, 3), np.uint8)
    ours = Preprocessing((3, box, box), interpolation, crop_pct, crop_mode, SQUARE.mean, SQUARE.std)
    batch = resize_batch(torch.from_numpy(pixels), ours).permute(0, 2, 3, 1).numpy()
    single = np.stack([ours.resize(image) for image in pixels])
    difference = np.abs(batch.astype(int) - single)
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_it_survives_json() -> None:
    assert Preprocessing.from_json(SQUARE.to_json()) == SQUARE


@pytest.mark.parametrize(
    "change",
    [{"interpolation": "lanczos"}, {"crop_mode": "corner"}, {"input_size": [1, 8, 8]}, {"gamma": 2}],
)
def test_a_preprocessing_it_cannot_do_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MvpError):
        Preprocessing.from_json(SQUARE.to_json() | change)


def test_a_device_needs_no_torch_for_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = None\n"
        "import numpy as np\n"
        "from mvp_deploy.tasks import Preprocessing\n"
        f"print(Preprocessing.from_json({SQUARE.to_json()!r}).apply(np.zeros((9, 9, 3), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(3, 24, 24)"
