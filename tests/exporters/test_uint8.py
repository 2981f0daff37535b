"""The target ``onnx-uint8``: bytes in, probabilities out, normalisation and softmax inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from fakes.models import classifier

from mvp_deploy.benchmark.runner import logits, open_runner
from mvp_deploy.exporters.errors import InputError
from mvp_deploy.exporters.protocol import Source, exporter
from tests.onnxfiles import run_onnx

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plain ONNX file, and the same with its preprocessing inside."""
    import torch

    folder = tmp_path_factory.mktemp("uint8")
    plain = folder / "plain.onnx"
    classifier(plain)
    source = Source("fp32", plain, torch.nn.Identity(), (3, 8, 8), MEAN, STD)
    return plain, exporter("onnx-uint8").export(source, folder / "pruned.fp32.uint8.onnx").path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def test_bytes_in_probabilities_out(files: tuple[Path, Path], pixels: np.ndarray) -> None:
    plain, inside = files
    normalised = (pixels.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    expected = run_onnx(plain, np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)))
    session = onnxruntime.InferenceSession(inside)
    found, probabilities = session.run(["logits", "probabilities"], {"images": pixels})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    powers = np.exp(expected)
    np.testing.assert_allclose(probabilities, powers / powers.sum(1, keepdims=True), atol=1e-5)


def test_the_runner_gives_the_same_logits_for_the_images_that_the_bytes_were(
    files: tuple[Path, Path], pixels: np.ndarray
) -> None:
    normalised = ((pixels.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
    plain, inside = (open_runner(path) for path in files)
    assert inside.image_shape == plain.image_shape == (3, 8, 8)
    images = np.ascontiguousarray(normalised)
    np.testing.assert_allclose(logits(inside, images, 2), logits(plain, images, 2), rtol=1e-4, atol=1e-5)


def test_a_file_that_takes_bytes_and_says_no_more_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(files[1])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(InputError, match="--with-preprocessing"):
        open_runner(tmp_path / "bare.onnx")


@pytest.mark.parametrize(
    "told", ["{", "[" * 100_000, '{"mean": [0, 0, NaN], "std": [1, 1, 1]}', '{"mean": [0, 0, 0], "std": [1, 1, 0]}']
)
def test_a_normalisation_that_is_none_is_refused(files: tuple[Path, Path], tmp_path: Path, told: str) -> None:
    import onnx

    model = onnx.load(files[1])
    next(entry for entry in model.metadata_props if entry.key == "normalisation").value = told
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(InputError, match="--with-preprocessing"):
        open_runner(tmp_path / "odd.onnx")
