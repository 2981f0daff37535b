"""Eigenvalues by numpy: torch's with MKL has failed to converge on finite matrices of low rank, as few images give."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mvp_deploy.base.errors import InputError


def eigenvectors(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix [n, n], in columns, by rising eigenvalue; float64 on the CPU.

    Raises:
        InputError: it is not finite.
    """
    _require_finite(matrix)
    return torch.from_numpy(np.linalg.eigh(matrix.double().cpu().numpy())[1])


def principal_directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """What x^T x is made of: eigenvalues [k] and eigenvectors [columns, k], the nullspace left out where it is known.

    Args:
        x: float64 [rows, columns], on the CPU.

    Raises:
        InputError: it is not finite.
    """
    _require_finite(x)
    if len(x) < x.shape[1]:
        _, singular, directions = np.linalg.svd(x.numpy(), full_matrices=False)
        return torch.from_numpy(singular).square(), torch.from_numpy(directions).T
    eigenvalues, directions = np.linalg.eigh((x.T @ x).numpy())
    return torch.from_numpy(eigenvalues).clamp_min(0), torch.from_numpy(directions)


def _require_finite(x: Tensor) -> None:
    """Of what a model computes: numpy finds no eigenvalues of NaN, and says so in its own words."""
    if not bool(x.isfinite().all()):
        raise InputError(
            "The model computes NaN or infinity on these images: its weights or its norms' statistics are damaged (a "
            "negative variance, numbers far too large). Restore them from a good copy."
        )
