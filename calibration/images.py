"""Representative images: what the ranges of fp16 and int8 models are measured on."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass

import numpy as np

from mvp_deploy.exporters.arrays import Plain, read_npz
from mvp_deploy.exporters.formats import damaged

ARRAYS = {"images": Plain("float32", 4), "labels": Plain("int64", 1), "sha256": Plain("U", 0)}
COUNT = 128  # enough for stable ranges; each further image costs time and changes little


@dataclass(frozen=True, eq=False)
class CalibrationImages:
    """Images as the model takes them, float32 [n, 3, H, W], and their labels int64 [n]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sha256(self) -> str:
        """A checksum of the images themselves, whatever file they lie in."""
        return hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest()

    @property
    def warning(self) -> str | None:
        """What to tell the user where there are too few images; None if there are enough."""
        if len(self) >= COUNT:
            return None
        return (
            f"only {len(self)} images to calibrate on: ranges depend on which images those are when there are fewer "
            f"than {COUNT}. Give the task more training images, or do not trust int8 much."
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compressed .npz with the checksum inside; equal images give equal bytes (numpy's own does not)."""
        arrays = {"images": self.images, "labels": self.labels, "sha256": np.array(self.sha256)}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy")
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CalibrationImages:
        """Read what `save` wrote.

        Raises:
            MvpError: it is not such a file, or its images are not those that were saved.
        """
        arrays = read_npz(path, ARRAYS, cure="export the model again")
        found = cls(arrays["images"], arrays["labels"])
        if found.sha256 != str(arrays["sha256"]):
            raise damaged(path, "the images do not fit their checksum", "export the model again")
        if len(found.images) != len(found.labels):
            raise damaged(path, "it has not one label for each image", "export the model again")
        return found


def choose(labels: np.ndarray, count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Which images to calibrate on: sorted indices int64 [min(count, n)], classes as even as they can be.

    Every class gives the same number; where one has too few, the others make up for it.
    """
    count = min(count, len(labels))
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # how many images of its class come before each image
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    order = shuffled[np.argsort(turn[shuffled], kind="stable")]
    return np.sort(order[:count])
