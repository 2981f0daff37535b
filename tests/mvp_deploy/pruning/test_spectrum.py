"""Eigenvalues of what few images give: low rank, and however wide."""

from __future__ import annotations

import pytest
import torch

from mvp_deploy.pruning.spectrum import principal_directions


@pytest.mark.parametrize(("rows", "columns", "rank"), [(15, 200, 14), (200, 15, 15), (200, 60, 3), (4, 9, 0)])
def test_principal_directions_make_up_the_second_moments(rows: int, columns: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, rank, generator=generator).double() @ torch.randn(rank, columns, generator=generator).double()
    eigenvalues, directions = principal_directions(x)
    torch.testing.assert_close(directions * eigenvalues @ directions.T, x.T @ x)
    torch.testing.assert_close(directions.T @ directions, torch.eye(directions.shape[1]).double())
    assert int((eigenvalues > 1e-9).sum()) == rank
