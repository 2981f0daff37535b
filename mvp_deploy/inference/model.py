"""One model of a bundle, open in its runtime: from images to class probabilities."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvp_deploy.base.errors import InputError
from mvp_deploy.base.files import atomic_write
from mvp_deploy.base.formats import read_json
from mvp_deploy.benchmark.runner import Runner, logits, open_runner, runs_here
from mvp_deploy.bundle import Bundle, ModelFile
from mvp_deploy.bundle.format import CURE, listed
from mvp_deploy.tasks.preprocessing import Preprocessing

BATCH = 16  # images at once


@dataclass(frozen=True)
class Which:
    """One of a bundle's models: its own or the unpruned one, by target and precision (None: the first there is)."""

    unpruned: bool = False
    target: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Prediction:
    """probabilities: of each class of the bundle, float32 [classes], summing to 1."""

    probabilities: np.ndarray
    classes: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.classes[int(self.probabilities.argmax())]

    @property
    def probability(self) -> float:
        return float(self.probabilities.max())

    def best(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes, the best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[k], float(self.probabilities[k])) for k in order]


@dataclass(frozen=True, eq=False)
class Model:
    """A model of a bundle, loaded; ``file`` says which. preprocessing: None where only its owner knows."""

    file: ModelFile
    runner: Runner
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None
    batch: int | None = None  # images at once that an engine was built for; None: as they come

    def logits(self, images: Sequence[Path | np.ndarray]) -> np.ndarray:
        """Logits float32 [n, classes] of images.

        Args:
            images: files; uint8 RGB arrays [height, width, 3] of any size; or arrays of floats
                [channels, height, width] that are the model's input already.

        Raises:
            MvpError: an image cannot be read (it is named), or does not fit the model.
        """
        parts = []
        for start in range(0, len(images), BATCH):
            batch = np.stack([self._input(x) for x in images[start : start + BATCH]])
            parts.append(logits(self.runner, batch, self.batch or len(batch)))
        return np.concatenate(parts)

    def _input(self, image: Path | np.ndarray) -> np.ndarray:
        """The model's input, float32 [channels, height, width]."""
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            if image.shape != self.runner.image_shape:
                raise InputError(f"The model takes images of {list(self.runner.image_shape)}, not {list(image.shape)}.")
            return np.ascontiguousarray(image, np.float32)
        if self.preprocessing is None:
            raise InputError(
                "This bundle does not say how an image becomes the model's input: export it with preprocessing=, or "
                "pass arrays of floats that your own transforms made."
            )
        if isinstance(image, Path):
            from mvp_deploy.tasks.folder import read_image  # imports Pillow

            return self.preprocessing.apply(read_image(image))
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"An image is uint8 RGB [height, width, 3], not {image.dtype} {list(image.shape)}.")
        return self.preprocessing.apply(image)

    def predict(self, images: Sequence[Path | np.ndarray]) -> list[Prediction]:
        """What each image shows, as `logits` reads them."""
        return [Prediction(row, self.classes) for row in softmax(self.logits(images))]


@contextmanager
def open_model(
    bundle: Bundle, file: ModelFile | None = None, *, threads: int | None = None, device: str = "cpu"
) -> Iterator[Model]:
    """Load a model of the bundle (None: `chosen`'s) into its runtime, and free it afterwards.

    Raises:
        MvpError: (ENVIRONMENT) its runtime or the device is missing.
    """
    file = file or chosen(bundle, Which())
    how_file = bundle.path / "preprocessing.json"
    how = read_json(how_file, Preprocessing, cure=CURE) if how_file.name in listed(bundle.path) else None
    runner = open_runner(bundle.path / file.file, threads=threads, device=device)
    try:
        yield Model(file, runner, bundle.classes, how, getattr(runner, "batch", None))
    finally:
        runner.close()


def chosen(bundle: Bundle, which: Which, built: Sequence[ModelFile] = ()) -> ModelFile:
    """The bundle's file for a target and precision; the first that runs as it is, where none is asked for.

    Args:
        bundle: the bundle.
        which: what is asked for.
        built: engines that were built from the bundle on this machine.

    Raises:
        MvpError: the bundle has no such file; the sentence lists those it has.
    """
    files = [*bundle.models, *built]
    for file in files:
        wanted = which.unpruned, which.target or file.target, which.precision or file.precision
        runs = which.target or (file.target != "tensorrt" and runs_here(Path(file.file)))
        if runs and (file.model == "unpruned", file.target, file.precision) == wanted:
            return file
    there = ", ".join(f"{file.model} {file.precision} for {file.target}" for file in files)
    build = f" `mvp-deploy build {bundle.path}` makes engines." if which.target == "engine" and not built else ""
    raise InputError(f"{bundle.path} has no such model; it has: {there}.{build}")


def write_predictions(path: Path, classes: Sequence[str], found: Mapping[str, Prediction]) -> None:
    """One line an image: its name, the class it was given, and the probability of every class."""
    rows = ((image, each.label, *(f"{share:.6f}" for share in each.probabilities)) for image, each in found.items())
    write_rows(path, ("image", "predicted", *classes), rows)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV file, whole or not at all."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(file).writerows([header, *rows])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float32 [n, classes], summing to 1 in each row."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)
