"""What the pruned and the unpruned model say of the held-out images: where they differ, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mvp_deploy.base.formats import damaged
from mvp_deploy.benchmark.statistics import paired_change
from mvp_deploy.bundle import Bundle
from mvp_deploy.bundle.format import CURE, HELD_OUT, listed
from mvp_deploy.exporters.arrays import Plain, read_npz

BINS = 10
MODELS = "unpruned", "pruned"


@dataclass(frozen=True, eq=False)
class Judged:
    """found: the class that each model gives an image, int64 [n]; sure: the probability of that class, float32 [n]."""

    classes: tuple[str, ...]
    labels: np.ndarray  # int64 [n]
    found: Mapping[str, np.ndarray]
    sure: Mapping[str, np.ndarray]

    def confusion(self, model: str) -> np.ndarray:
        """How many images of each class (row) the model gives each class (column): int64 [classes, classes]."""
        counts = np.zeros((len(self.classes),) * 2, np.int64)
        np.add.at(counts, (self.labels, self.found[model]), 1)
        return counts

    def right(self, model: str) -> np.ndarray:
        """Which images the model names rightly: bool [n]."""
        found: np.ndarray = self.found[model] == self.labels
        return found

    def per_class(self) -> list[tuple[str, str, str, str, str]]:
        """Class, images, recall of both models and its change in points; the greatest loss first."""
        rows = []
        for number, name in enumerate(self.classes):
            before, after = (self.right(model)[self.labels == number] for model in MODELS)
            if len(before):
                change = after.mean() - before.mean()
                told = paired_change(before, after).points
                rows.append((change, (name, str(len(before)), f"{before.mean():.1%}", f"{after.mean():.1%}", told)))
        return [row for _, row in sorted(rows, key=lambda each: (each[0], each[1][0]))]

    def lost(self) -> np.ndarray:
        """Images that the pruned model alone gets wrong: their numbers, those it is surest of first."""
        only = np.flatnonzero(self.right("unpruned") & ~self.right("pruned"))
        order: np.ndarray = only[np.argsort(-self.sure["pruned"][only], kind="stable")]
        return order

    def reliability(self, model: str) -> tuple[list[tuple[float, float]], float]:
        """Mean confidence and share right of each bin of confidence, and the expected calibration error, 0..1.

        Guo et al., "On Calibration of Modern Neural Networks", 2017, equations 2 to 5.
        """
        sure, right = self.sure[model], self.right(model)
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        parts = [np.flatnonzero(bins == number) for number in range(BINS)]
        points = [(float(sure[part].mean()), float(right[part].mean())) for part in parts if len(part)]
        sizes = [len(part) / len(sure) for part in parts if len(part)]
        return points, sum(size * abs(hit - said) for size, (said, hit) in zip(sizes, points, strict=True))


def judged(bundle: Bundle) -> Judged | None:
    """Of a bundle that knows both models' answers; None of one that does not (older ones, or one model alone)."""
    if HELD_OUT not in listed(bundle.path) or any(file.model == "model" for file in bundle.models):
        return None
    wanted = {"labels": Plain("int64", 1)}
    wanted |= {name: Plain("int64", 1) for name in MODELS} | {f"{name}_sure": Plain("float32", 1) for name in MODELS}
    arrays = read_npz(bundle.path / HELD_OUT, wanted, cure=CURE)
    if not all(((arrays[name] >= 0) & (arrays[name] < len(bundle.classes))).all() for name in ("labels", *MODELS)):
        raise damaged(bundle.path / HELD_OUT, "it names classes that there are not", CURE)
    found, sure = {name: arrays[name] for name in MODELS}, {name: arrays[f"{name}_sure"] for name in MODELS}
    return Judged(bundle.classes, arrays["labels"], found, sure)
