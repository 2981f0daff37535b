"""Numeric agreement of an exported model with the one it came from; numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_deploy.exporters.errors import DeployError, ExitCode

FP32_TOLERANCE = 1e-4  # two correct float32 implementations differ by their order of summation
# By precision. For int8 a bound against nonsense: what it may cost is a matter of accuracy, and bounded there.
TOLERANCE = {"fp32": FP32_TOLERANCE, "fp16": 2e-2, "int8": 0.3}
STRAYS = 0.05  # share of the images on which reduced precisions may be farther off: a wrong conversion spoils most


@dataclass(frozen=True, eq=False)
class Parity:
    """How far two models' logits are apart on the same images."""

    differences: np.ndarray  # float64 [images], relative to the image's largest reference logit or the usual one
    agreement: float  # share of images for which both choose the same class, 0..1
    strays: int  # how many of the images are not counted

    @property
    def images(self) -> int:
        return len(self.differences)

    @property
    def worst(self) -> int:
        """The number of the image that is farthest off."""
        return int(self.differences.argmax())

    @property
    def relative(self) -> float:
        """What all images keep to but the strays."""
        return float(np.sort(self.differences)[-1 - self.strays])

    def beyond(self, tolerance: float) -> int:
        """How many images are farther off."""
        return int((self.differences > tolerance).sum())


class NoParity(DeployError):
    """A model that disagrees with its original; ``worst``: the number of the image it disagrees on most, if known."""

    def __init__(self, message: str, worst: int | None = None) -> None:
        super().__init__(message, ExitCode.PARITY)
        self.worst = worst


def compare(reference: np.ndarray, got: np.ndarray, *, exact: bool = True) -> Parity:
    """Compare logits [n, classes] of the same images.

    An image's difference is relative to its own largest reference logit, or to the median image's where that is larger:
    neither does one image of great logits hide what is wrong with the others, nor do small logits make much of little.

    Args:
        exact: every image counts. Else one in twenty (at least one) may be a stray, but never half of them.

    Raises:
        NoParity: the shapes differ, or a value is not finite.
    """
    if reference.shape != got.shape:
        raise NoParity(f"the exported model gives {got.shape} where the original gives {reference.shape}.")
    for whose, values in (("exported", got), ("original", reference)):
        finite = np.isfinite(values).all(1)
        if not finite.all():
            raise NoParity(f"the {whose} model gives values that are not finite.", int(finite.argmin()))
    largest = np.abs(reference).max(1).astype(np.float64)
    scale = np.maximum(largest, np.median(largest))
    apart = np.abs(reference.astype(np.float64) - got).max(1)
    strays = 0 if exact else min(max(1, int(STRAYS * len(got))), (len(got) - 1) // 2)
    return Parity(
        differences=apart / np.where(scale > 0, scale, 1.0),
        agreement=float((reference.argmax(1) == got.argmax(1)).mean()),
        strays=strays,
    )


def check_parity(
    reference: np.ndarray, got: np.ndarray, tolerance: float = FP32_TOLERANCE, *, exact: bool = True
) -> Parity:
    """``compare``, and refuse what is farther off than ``tolerance``.

    Raises:
        NoParity: as ``compare`` does, or the difference is too large (a tolerance that is no number allows none).
    """
    parity = compare(reference, got, exact=exact)
    if not parity.relative <= tolerance:
        allowed = "none may be" if exact else f"{parity.strays} may be"
        raise NoParity(
            f"the logits of {parity.beyond(tolerance)} of {parity.images} images are off by more than {tolerance:.0e} "
            f"of their size, {allowed}; the most is {parity.differences.max():.1e} (the same class on "
            f"{parity.agreement:.1%} of the images).",
            parity.worst,
        )
    return parity
