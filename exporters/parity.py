"""Numeric agreement of an exported model with the one it came from; numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_deploy.exporters.errors import DeployError, ExitCode

FP32_TOLERANCE = 1e-4  # two correct float32 implementations differ by their order of summation
# By precision. For int8 a bound against nonsense: what it may cost is a matter of accuracy, and bounded there.
TOLERANCE = {"fp32": FP32_TOLERANCE, "fp16": 2e-2, "int8": 0.3}


@dataclass(frozen=True)
class Parity:
    """How far two models' logits are apart."""

    relative: float  # largest difference, divided by the largest absolute reference logit
    agreement: float  # share of images for which both choose the same class, 0..1
    images: int


def compare(reference: np.ndarray, got: np.ndarray) -> Parity:
    """Compare logits [n, classes] of the same images.

    Raises:
        DeployError: (PARITY) the shapes differ, or a value is not finite.
    """
    if reference.shape != got.shape:
        raise DeployError(
            f"the exported model gives {got.shape} where the original gives {reference.shape}.",
            ExitCode.PARITY,
        )
    if not np.isfinite(got).all():
        raise DeployError("the exported model gives values that are not finite.", ExitCode.PARITY)
    if not np.isfinite(reference).all():
        raise DeployError("the original model gives values that are not finite.", ExitCode.PARITY)
    scale = float(np.abs(reference).max()) or 1.0
    return Parity(
        relative=float(np.abs(reference.astype(np.float64) - got).max()) / scale,
        agreement=float((reference.argmax(1) == got.argmax(1)).mean()),
        images=len(reference),
    )


def check_parity(reference: np.ndarray, got: np.ndarray, tolerance: float = FP32_TOLERANCE) -> Parity:
    """``compare``, and refuse a relative difference above ``tolerance``.

    Raises:
        DeployError: (PARITY) as ``compare`` does, or the difference is too large.
    """
    parity = compare(reference, got)
    if parity.relative > tolerance:
        raise DeployError(
            f"the exported model's logits are off by {parity.relative:.1e} of the original's range, "
            f"more than {tolerance:.0e} (same class on {parity.agreement:.1%} of {parity.images} images): "
            "it must not be shipped; another version of the exporting library may do better.",
            ExitCode.PARITY,
        )
    return parity
