"""Numeric agreement of an exported model with the one it came from; numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_deploy.exporters.errors import ParityError

FP32_TOLERANCE = 1e-4  # two correct float32 implementations differ by their order of summation
# By precision. For int8 a bound against nonsense: what it may cost is a matter of accuracy, and bounded there.
TOLERANCE = {"fp32": FP32_TOLERANCE, "fp16": 2e-2, "int8": 0.3}
STRAYS = 0.05  # share of the images that reduced precisions may spoil: a wrong conversion spoils most


@dataclass(frozen=True, eq=False)
class Parity:
    """How far two models' logits are apart on the same images.

    In float32 every image counts. Reduced precisions may have strays, pictures unlike those their ranges were measured
    on: judged are the median image's difference, and how many images are far off and get another class.
    """

    differences: np.ndarray  # float64 [images], relative to the image's largest reference logit or the usual one
    same: np.ndarray  # bool [images], whether both choose the same class
    exact: bool

    @property
    def relative(self) -> float:
        """The largest difference if exact, else the median one."""
        return float(self.differences.max() if self.exact else np.median(self.differences))

    @property
    def agreement(self) -> float:
        """The share of images for which both choose the same class, 0..1."""
        return float(self.same.mean())

    @property
    def images(self) -> int:
        return len(self.differences)

    @property
    def strays(self) -> int:
        """How many images may be off: one in twenty, at least one, but never half of them."""
        return 0 if self.exact else min(max(1, int(STRAYS * self.images)), (self.images - 1) // 2)

    def off(self, tolerance: float) -> np.ndarray:
        """Which images are farther off than the tolerance; not exact: and get another class."""
        beyond: np.ndarray = ~(self.differences <= tolerance)
        return beyond if self.exact else beyond & ~self.same


class NoParity(ParityError):
    """A model that disagrees with its original; ``worst``: the number of the image it disagrees on most, if known."""

    def __init__(self, message: str, worst: int | None = None) -> None:
        super().__init__(message)
        self.worst = worst


def compare(reference: np.ndarray, got: np.ndarray, *, exact: bool = True) -> Parity:
    """Compare logits [n, classes] of the same images.

    An image's difference is relative to its own largest reference logit, or to the median image's where that is larger:
    neither does one image of great logits hide what is wrong with the others, nor do small logits make much of little.

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
    return Parity(apart / np.where(scale > 0, scale, 1.0), reference.argmax(1) == got.argmax(1), exact)


def check_parity(
    reference: np.ndarray, got: np.ndarray, tolerance: float = FP32_TOLERANCE, *, exact: bool = True
) -> Parity:
    """``compare``, and refuse what is farther off than ``tolerance`` (NaN allows nothing).

    Raises:
        NoParity: as ``compare`` does, or the difference is too large.
    """
    parity = compare(reference, got, exact=exact)
    off = parity.off(tolerance)
    if not parity.relative <= tolerance or off.sum() > parity.strays:
        kind = "largest" if exact else "median"
        spoilt = "" if exact else f" and {off.sum()} of them are farther off and get another class, {parity.strays} may"
        raise NoParity(
            f"the logits of {parity.images} images are off by {parity.relative:.1e} of their size ({kind}), where "
            f"{tolerance:.0e} is allowed,{spoilt} (the same class on {parity.agreement:.1%}).",
            int(parity.differences.argmax()),
        )
    return parity
